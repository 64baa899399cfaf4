/** What can be done from anywhere: go to a page, run the machine, change the theme. */
import { pages } from "../pages/registry";
import { text } from "../text";
import type { Command } from "./commands";
import { machine } from "./machine.svelte";
import { runMachine } from "./machine_acts";
import { preferences } from "./preferences.svelte";
import { go } from "./route.svelte";

export function shellCommands(): Command[] {
  const shown = pages.filter((page) => page.place !== "none");
  const commands: Command[] = shown.map((page, index) => ({
    id: `page:${page.name}`,
    title: page.title,
    group: text.palette.page,
    icon: page.icon,
    keys: index < 9 ? `Ctrl+${index + 1}` : undefined,
    run: () => go(page.name),
  }));
  const verbs = machine.state === "stopped" ? (["start"] as const) : machine.state === "running" ? (["stop", "restart"] as const) : [];
  for (const verb of verbs) {
    commands.push({ id: `machine:${verb}`, title: text.machine[verb], group: text.palette.machine, icon: verb, run: () => void runMachine(verb) });
  }
  const icons = { system: "screen", light: "sun", dark: "moon" } as const;
  for (const theme of ["system", "light", "dark"] as const) {
    if (preferences.current?.theme === theme) continue;
    commands.push({
      id: `theme:${theme}`,
      title: text.palette.themes[theme],
      group: text.palette.theme,
      icon: icons[theme],
      run: () => void preferences.change({ theme }),
    });
  }
  return commands;
}
