import { expect, test } from "vitest";
import { matching, type Command } from "./commands";

const command = (title: string, group = "Page"): Command => ({ id: title, title, group, icon: "info", run: () => undefined });
const all = [command("Restart machine", "Machine"), command("Stop machine", "Machine"), command("machine-shop", "Container"), command("Containers")];

test("all words must match, and what starts with them comes first", () => {
  expect(matching(all, "machine").map(({ title }) => title)).toEqual(["machine-shop", "Restart machine", "Stop machine"]);
  expect(matching(all, "mach stop").map(({ title }) => title)).toEqual(["Stop machine"]);
  expect(matching(all, " ")).toHaveLength(4);
  expect(matching(all, "nothing")).toEqual([]);
});
