/** Every page of the app. To add one: a folder beside this file, and one entry here. */
import type { Component } from "svelte";
import type { IconName } from "../components/icons";
import { text } from "../text";
import Containers from "./containers/Containers.svelte";

export interface Page {
  /** The first part of its address: `#/containers`. */
  name: string;
  title: string;
  icon: IconName;
  /** Where its link stands: above in the sidebar, below in it, or nowhere. */
  place: "top" | "bottom" | "none";
  /** The page itself; `segments` is the rest of the address. */
  load: () => Promise<{ default: Component<{ segments: string[] }> }>;
}

export const pages: Page[] = [
  {
    name: "containers",
    title: text.containers.title,
    icon: "containers",
    place: "top",
    // The first page is in the first file: nothing is waited for but the engine.
    load: async () => ({ default: Containers }),
  },
  { name: "images", title: text.images.title, icon: "images", place: "top", load: () => import("./images/Images.svelte") },
  { name: "volumes", title: text.volumes.title, icon: "volumes", place: "top", load: () => import("./volumes/Volumes.svelte") },
  { name: "networks", title: text.networks.title, icon: "networks", place: "top", load: () => import("./networks/Networks.svelte") },
  { name: "machine", title: text.machinePage.title, icon: "machine", place: "top", load: () => import("./machine/Machine.svelte") },
  { name: "settings", title: text.settings.title, icon: "settings", place: "bottom", load: () => import("./settings/Settings.svelte") },
  { name: "first-run", title: text.firstRun.title, icon: "info", place: "none", load: () => import("./first_run/FirstRun.svelte") },
];
