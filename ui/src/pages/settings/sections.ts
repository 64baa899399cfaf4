/** The sections of the page, in their order. */
import type { Component } from "svelte";
import type { IconName } from "../../components/icons";
import About from "./sections/About.svelte";
import App from "./sections/App.svelte";
import Engine from "./sections/Engine.svelte";
import Files from "./sections/Files.svelte";
import Network from "./sections/Network.svelte";
import Resources from "./sections/Resources.svelte";
import Updates from "./sections/Updates.svelte";

export type SectionName = "resources" | "files" | "network" | "engine" | "app" | "updates" | "about";

export interface Section {
  name: SectionName;
  icon: IconName;
  /** Of the machine: needs its settings. */
  group: "machine" | "app";
  body: Component;
}

export const sections: Section[] = [
  { name: "resources", icon: "chart", group: "machine", body: Resources },
  { name: "files", icon: "folder", group: "machine", body: Files },
  { name: "network", icon: "networks", group: "machine", body: Network },
  { name: "engine", icon: "containers", group: "machine", body: Engine },
  { name: "app", icon: "screen", group: "app", body: App },
  { name: "updates", icon: "download", group: "app", body: Updates },
  { name: "about", icon: "info", group: "app", body: About },
];
