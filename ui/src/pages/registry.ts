/** Every page of the app. To add one: a folder beside this file, and one entry here. */
import type { Component } from "svelte";
import type { IconName } from "../components/icons";
import { text } from "../text";

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
    load: () => import("./containers/Containers.svelte"),
  },
  { name: "images", title: text.images.title, icon: "images", place: "top", load: () => import("./images/Images.svelte") },
  { name: "networks", title: text.networks.title, icon: "networks", place: "top", load: () => import("./networks/Networks.svelte") },
  { name: "settings", title: text.settings.title, icon: "settings", place: "bottom", load: () => import("./settings/Settings.svelte") },
  { name: "first-run", title: text.firstRun.title, icon: "info", place: "none", load: () => import("./first_run/FirstRun.svelte") },
];
