/** Volumes: the list, their files, and what is done with them. */
import { describe, expect, test } from "vitest";
import type { Page } from "playwright-core";
import { expectAccessible, openApp, picture } from "./browser";

const row = (page: Page, name: string) => page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) });
const names = (page: Page) => page.evaluate(() => [...window.fake.docker.volumes.keys()]);
const menu = async (page: Page, of: string, item: string) => {
  await page.getByRole("button", { name: of, exact: true }).click();
  await page.getByRole("menuitem", { name: item }).click();
};
const filesOf = (page: Page, volume: string) => page.evaluate((name) => window.fake.docker.volumes.get(name)?.files.map((file) => file.name).sort(), volume);

describe.each(["light", "dark"] as const)("pictures, %s", (theme) => {
  test("the list", async () => {
    const page = await openApp({ at: "volumes", theme });
    await page.getByText("8 volumes · 2.83 GiB").waitFor();
    await expectAccessible(page);
    await picture(page, `volumes-${theme}`);
  });

  test("nothing matches; none yet; stopped", async () => {
    const page = await openApp({ at: "volumes", theme });
    await page.getByRole("searchbox").fill("no such thing");
    await page.getByText("Nothing matches").waitFor();
    await expectAccessible(page);
    await picture(page, `volumes-no-match-${theme}`);
    const empty = await openApp({ at: "volumes", theme, fake: "empty" });
    await empty.getByText("No volumes yet").waitFor();
    await expectAccessible(empty);
    await picture(empty, `volumes-empty-${theme}`);
    const stopped = await openApp({ at: "volumes", theme, fake: "stopped" });
    await stopped.getByText("The machine is stopped").waitFor();
    await expectAccessible(stopped);
    await picture(stopped, `volumes-stopped-${theme}`);
  });

  test("every tab of one", async () => {
    const page = await openApp({ at: "volumes/harbour-shop_media", theme });
    await page.getByText("resize.sh").waitFor();
    await expectAccessible(page);
    await picture(page, `volume-files-${theme}`);
    await page.getByRole("tab", { name: "Used by" }).click();
    await page.getByText("/srv/media").waitFor();
    await expectAccessible(page);
    await picture(page, `volume-used-by-${theme}`);
    await page.getByRole("tab", { name: "Configuration" }).click();
    await page.getByText("Place in the machine").waitFor();
    await expectAccessible(page);
    await picture(page, `volume-configuration-${theme}`);
  });

  test("the form for a new one, with what is wrong in it", async () => {
    const page = await openApp({ at: "volumes", theme });
    await page.getByRole("button", { name: "Create…" }).click();
    await page.getByLabel("Name", { exact: true }).fill("my volume");
    await page.getByText("Labels and options").click();
    await page.getByRole("button", { name: "Add label" }).click();
    await page.getByRole("button", { name: "Create volume" }).click();
    await page.getByText("at least two").waitFor();
    await expectAccessible(page);
    await picture(page, `volumes-create-${theme}`);
  });

  test("the clean-up and the question before a removal", async () => {
    const page = await openApp({ at: "volumes", theme });
    await menu(page, "More for volumes", "Clean up…");
    await page.getByText("Frees 186 MiB").waitFor();
    await expectAccessible(page);
    await picture(page, `volumes-prune-${theme}`);
    await page.getByRole("button", { name: "Cancel" }).click();
    await menu(page, "More for pip-cache", "Remove…");
    await page.getByText("pip-cache: all its files, 880 MiB").waitFor();
    await expectAccessible(page);
    await picture(page, `volumes-remove-${theme}`);
  });
});

test("folders are walked through; a link leads where it leads", async () => {
  const page = await openApp({ at: "volumes/harbour-shop_media" });
  await page.getByRole("button", { name: "uploads", exact: true }).click();
  await page.getByRole("button", { name: "2026", exact: true }).click();
  await page.getByText("quay-at-dawn.jpg").waitFor();
  await page.getByText("840 KiB").waitFor();
  await page.getByRole("button", { name: "Parent folder" }).click();
  await page.getByRole("button", { name: "Root folder" }).click();
  await page.getByText("→ uploads/2026").waitFor();
});

test("a file is downloaded as it is, and one is uploaded; what is there already is asked about", async () => {
  const page = await openApp({ at: "volumes/harbour-shop_media" });
  await page.getByRole("button", { name: "Download resize.sh" }).click();
  await page.getByText("resize.sh saved, 2 KiB").waitFor();
  expect(await page.evaluate(() => window.fake.desktop.saved["/home/ada/Downloads/resize.sh"]?.length)).toBe(2048);
  await page.getByRole("button", { name: "Upload file…" }).click();
  await page.getByText("notes.txt uploaded").waitFor();
  await page.getByRole("cell", { name: "notes.txt", exact: true }).waitFor();
  expect(await filesOf(page, "harbour-shop_media")).toContain("/notes.txt");
  await page.getByRole("button", { name: "Upload file…" }).click();
  await page.getByText("The present notes.txt (19 B)").waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
});

test("a volume is created, and another of its name is not", async () => {
  const page = await openApp({ at: "volumes" });
  await page.getByRole("button", { name: "Create…" }).click();
  await page.getByLabel("Name", { exact: true }).fill("pip-cache");
  await page.getByText("A volume of this name is there already").waitFor();
  await page.getByLabel("Name", { exact: true }).fill("charts");
  await page.getByText("Labels and options").click();
  await page.getByRole("button", { name: "Add label" }).click();
  await page.getByRole("textbox", { name: "Label 1" }).fill("team");
  await page.getByLabel("Value 1").fill("harbour");
  await page.getByRole("button", { name: "Create volume" }).click();
  await page.getByRole("heading", { name: "charts" }).waitFor();
  await page.getByText("This folder is empty").waitFor();
  expect(await page.evaluate(() => window.fake.docker.volumes.get("charts")?.Labels)).toEqual({ team: "harbour" });
});

test("a volume is backed up, removed, and made again from the backup", async () => {
  const page = await openApp({ at: "volumes" });
  await menu(page, "More for old-ferry_data", "Back up…");
  await page.getByText(/old-ferry_data backed up/).waitFor();
  await page.evaluate(() => {
    const [[path, bytes] = []] = Object.entries(window.fake.desktop.saved);
    if (!path?.includes("old-ferry_data-20") || !bytes) throw new Error(`no backup: ${path}`);
    window.fake.files["/home/ada/old-ferry_data-2026-11-29.tar"] = bytes;
    window.fake.nextFile = "/home/ada/old-ferry_data-2026-11-29.tar";
  });
  await menu(page, "More for old-ferry_data", "Remove…");
  await page.getByText("old-ferry_data: all its files, 64 MiB").waitFor();
  await page.getByRole("button", { name: "Remove volume" }).click();
  await row(page, "old-ferry_data").waitFor({ state: "detached" });
  await menu(page, "More for volumes", "New from backup…");
  expect(await page.getByLabel("Name", { exact: true }).inputValue()).toBe("old-ferry_data");
  await page.getByRole("button", { name: "Restore", exact: true }).click();
  await page.getByText("old-ferry_data restored").waitFor();
  await row(page, "old-ferry_data").waitFor();
  expect(await filesOf(page, "old-ferry_data")).toEqual(["/data.db"]);
});

test("a restore into a volume that is used says what happens; a broken one says why", async () => {
  const page = await openApp({ at: "volumes/harbour-shop_db" });
  await page.getByRole("button", { name: "Restore…" }).click();
  await page.getByText("harbour-shop-db-1 has open").waitFor();
  await page.getByRole("button", { name: "Restore backup" }).click();
  // The file that the dialog suggests is a note.
  await page.getByText("harbour-shop_db was not restored whole").waitFor();
  await page.getByText("Error processing tar file: unexpected EOF").waitFor();
  await page.getByRole("button", { name: "Try again" }).waitFor();
  await expectAccessible(page);
  await picture(page, "volume-restore-failed-light");
});

test("the clean-up removes what it said, and leaves what has a name or is elsewhere", async () => {
  const page = await openApp({ at: "volumes" });
  await menu(page, "More for volumes", "Clean up…");
  await page.getByRole("button", { name: "Remove 2 volumes" }).click();
  await page.getByText("2 volumes removed, 186 MiB freed").waitFor();
  expect(await names(page)).toEqual(["harbour-shop_db", "harbour-shop_media", "field-notes_data", "pip-cache", "old-ferry_data", "team-share"]);
  await menu(page, "More for volumes", "Clean up…");
  await page.getByRole("radio", { name: /All unused volumes/ }).check();
  await page.getByText("Frees 944 MiB").waitFor();
  await page.getByRole("button", { name: "Remove 2 volumes" }).click();
  await page.getByText("2 volumes removed, 944 MiB freed").waitFor();
  expect(await names(page)).toEqual(["harbour-shop_db", "harbour-shop_media", "field-notes_data", "team-share"]);
});

test("volumes are removed together; those that containers have stay", async () => {
  const page = await openApp({ at: "volumes" });
  await page.getByRole("checkbox", { name: "Select all" }).check();
  await page.getByText("8 selected").waitFor();
  await page.getByRole("button", { name: "Remove…" }).click();
  await page.getByText("team-share: only the way to its files").waitFor();
  await page.getByText("harbour-shop_db stays: harbour-shop-db-1 has it.").waitFor();
  await page.getByText("1.1 GiB in all").waitFor();
  await page.getByRole("button", { name: "Remove 5 volumes" }).click();
  await page.getByText("Removed 5 volumes").waitFor();
  expect(await names(page)).toEqual(["harbour-shop_db", "harbour-shop_media", "field-notes_data"]);
});

test("what is done elsewhere is seen here; a volume that goes is said to be gone", async () => {
  const page = await openApp({ at: "volumes/pip-cache" });
  await page.getByText("segment-0.dat").waitFor();
  await page.evaluate(() => {
    window.fake.docker.volumes.delete("pip-cache");
    window.fake.docker.emit("volume", "destroy", "pip-cache");
  });
  await page.getByText("This volume is gone").waitFor();
  await page.getByRole("button", { name: "All volumes" }).click();
  await row(page, "team-share").waitFor();
  expect(await row(page, "pip-cache").count()).toBe(0);
});

test("names with markup are text", async () => {
  const page = await openApp({ at: "volumes" });
  await row(page, "team-share").waitFor();
  await page.evaluate(() => {
    const { docker } = window.fake;
    const team = docker.volumes.get("team-share");
    const name = `<img src=x onerror="window.__pwned=1">`;
    if (team) docker.volumes.set(name, { ...team, Name: name, Options: null, Labels: { "com.docker.compose.project": name, "\u202Eevil": "\x1b[31m" }, files: [{ name: `/${name.replace("/", "")}`, bytes: new Uint8Array(1) }] });
    docker.emit("volume", "create", name);
  });
  await page.getByRole("link", { name: /^<img/ }).click();
  await page.getByRole("heading", { name: /^<img/ }).waitFor();
  await page.getByRole("cell", { name: /^<img/ }).first().waitFor();
  await page.getByRole("tab", { name: "Configuration" }).click();
  await page.getByText("evil").waitFor();
  await expectAccessible(page);
  expect(await page.evaluate(() => "__pwned" in window)).toBe(false);
});
