/** The list of containers: what it shows, and what is done from it. */
import { describe, expect, test } from "vitest";
import type { Page } from "playwright-core";
import { expectAccessible, openApp, picture } from "./browser";

const row = (page: Page, name: string) => page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) });
const state = (page: Page, name: string) => page.evaluate((wanted) => [...window.fake.docker.containers.values()].find((one) => one.name === wanted)?.state, name);

describe.each(["light", "dark"] as const)("pictures, %s", (theme) => {
  test("the list", async () => {
    const page = await openApp({ theme });
    // Measured: a figure stands where a dash stood.
    await row(page, "busy-logger").getByText("MiB").waitFor();
    await expectAccessible(page);
    await picture(page, `containers-${theme}`);
  });

  test("nothing matches", async () => {
    const page = await openApp({ theme });
    await page.getByRole("searchbox", { name: "Search containers" }).fill("no such thing");
    await page.getByText("Nothing matches").waitFor();
    await expectAccessible(page);
    await picture(page, `containers-no-match-${theme}`);
    await page.getByRole("button", { name: "Show all" }).click();
    await row(page, "grafana").waitFor();
  });
});

test("projects are grouped, and folded", async () => {
  const page = await openApp();
  await row(page, "web").waitFor();
  await page.getByText("4 of 5 running").waitFor();
  await page.getByRole("button", { name: /^harbour-shop/ }).click();
  await row(page, "web").waitFor({ state: "detached" });
  await row(page, "app").waitFor();
});

test("search and filter narrow the list; / goes to the search", async () => {
  const page = await openApp();
  await row(page, "grafana").waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("shop 3000");
  await row(page, "grafana").waitFor({ state: "detached" });
  await row(page, "api").waitFor();
  expect(await page.getByRole("row").count()).toBe(3);
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Not running" }).click();
  await row(page, "nightly-backup").waitFor();
  expect(await row(page, "grafana").count()).toBe(0);
});

test("ports are links that the user's browser opens", async () => {
  const page = await openApp();
  await page.getByRole("link", { name: "Open port 8080→80 in the browser" }).click();
  expect(await page.evaluate(() => window.fake.desktop.opened)).toEqual(["http://localhost:8080"]);
});

test("one is stopped, and started again from the message", async () => {
  const page = await openApp();
  await page.getByRole("button", { name: "Stop grafana" }).click();
  await row(page, "grafana").getByText("Exited with 0").waitFor();
  await page.getByText("Stopped grafana").waitFor();
  await page.getByRole("button", { name: "Start again" }).click();
  await row(page, "grafana").getByText("Running").waitFor();
});

test("what cannot be done says why, in the engine's words", async () => {
  const page = await openApp();
  await page.getByRole("searchbox", { name: "Search containers" }).fill("port-thief");
  await page.getByRole("button", { name: "Start port-thief" }).click();
  const alert = page.getByRole("alert").filter({ hasText: "port-thief did not start" });
  await alert.getByText("port is already allocated").waitFor();
  await expectAccessible(page);
  await picture(page, "containers-failed-light");
  await alert.getByRole("button", { name: "Copy details" }).click();
  expect(await page.evaluate(() => window.fake.desktop.copied[0])).toContain("port is already allocated");
});

test("many are stopped, then removed after a question that names what is lost", async () => {
  const page = await openApp();
  for (const name of ["grafana", "nightly-backup", "import-2025"]) await row(page, name).getByRole("checkbox").check();
  await page.getByText("3 selected").waitFor();
  await picture(page, "containers-selected-light");
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await row(page, "grafana").getByText("Exited with 0").waitFor();
  await page.getByRole("button", { name: "Start again" }).click();
  await row(page, "grafana").getByText("Running").waitFor();

  await page.getByRole("button", { name: "Remove…" }).click();
  const dialog = page.getByRole("dialog", { name: "Remove 3 containers?" });
  await dialog.getByText("grafana: it is running and will be killed").waitFor();
  await dialog.getByText("nightly-backup: files written inside the container").waitFor();
  await expectAccessible(page);
  await picture(page, "containers-remove-light");
  await dialog.getByRole("button", { name: "Cancel" }).click();
  expect(await state(page, "grafana")).toBe("running");

  await page.getByRole("button", { name: "Remove…" }).click();
  await dialog.getByRole("button", { name: "Remove 3 containers" }).click();
  await page.getByText("Removed 3 containers").waitFor();
  await row(page, "grafana").waitFor({ state: "detached" });
  // What is gone is not chosen any more.
  await page.getByRole("searchbox", { name: "Search containers" }).waitFor();
});

test("a project is restarted and removed as one", async () => {
  const page = await openApp();
  await page.getByRole("button", { name: "Stop harbour-shop", exact: true }).click();
  await page.getByText("0 of 5 running").waitFor();
  await page.getByRole("button", { name: "Start harbour-shop", exact: true }).click();
  await page.getByText("5 of 5 running").waitFor();
  await page.getByRole("button", { name: "More for project harbour-shop" }).click();
  await page.getByRole("menuitem", { name: "Remove…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove 5 containers" }).click();
  await page.getByText("harbour-shop").first().waitFor({ state: "detached" });
});

test("menus are driven by the keyboard, and stay in the window", async () => {
  const page = await openApp();
  await page.getByRole("button", { name: "More for grafana" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("menuitem", { name: "Restart" }).waitFor();
  await picture(page, "containers-menu-light");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await row(page, "grafana").getByText("Paused").waitFor();
  expect(await page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toBe("More for grafana");
});

test("what happens in a terminal is seen at once", async () => {
  const page = await openApp();
  await row(page, "grafana").waitFor();
  await page.evaluate(() => {
    const { docker } = window.fake;
    docker.end(docker.container("grafana"), 3, "die");
    docker.remove(docker.container("nightly-backup"), false);
  });
  await row(page, "grafana").getByText("Exited with 3").waitFor();
  await row(page, "nightly-backup").waitFor({ state: "detached" });
});

test("names with markup and control characters are shown, not obeyed", async () => {
  const page = await openApp({ fake: "hostile" });
  const name = `<img src=x onerror="window.__pwned=1"><b>bold</b>`;
  await page.getByRole("link", { name, exact: true }).waitFor();
  await page.getByText("�gnp.exe� ␛[31mred␛[0m ␇bell").waitFor();
  await expectAccessible(page);
  await picture(page, "containers-hostile-light");
  await page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) }).getByRole("checkbox").check();
  await page.getByRole("button", { name: "Remove…" }).click();
  await page.getByRole("dialog").getByText("<b>bold</b>: it is running").waitFor();
  await picture(page, "containers-hostile-remove-light");
  expect(await page.locator("img, b").count()).toBe(0);
  expect(await page.evaluate(() => "__pwned" in window)).toBe(false);
});

test.each([860, 640])("a window of %i pixels still shows all that can be done", async (width) => {
  const page = await openApp({ size: { width, height: 640 } });
  await row(page, "grafana").waitFor();
  const box = await page.getByRole("button", { name: "More for grafana" }).boundingBox();
  expect((box?.x ?? 0) + (box?.width ?? 0)).toBeLessThanOrEqual(width);
  await page.getByRole("link", { name: "Containers", exact: true }).waitFor();
  await expectAccessible(page);
  await picture(page, `containers-${width}-light`);
});
