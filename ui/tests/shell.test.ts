/** What surrounds every page: the machine, the palette, the theme, the states. */
import { describe, expect, test } from "vitest";
import { expectAccessible, openApp, picture } from "./browser";

const themes = ["light", "dark"] as const;

describe("the machine", () => {
  test("is started from the page that needs it, telling each step", async () => {
    const page = await openApp({ fake: "stopped" });
    await page.getByText("The machine is stopped").waitFor();
    await page.evaluate(() => void (window.fake.machine.stepMs = 1500));
    await page.getByRole("button", { name: "Start machine" }).click();
    await page.getByText("The machine is starting").waitFor();
    await page.getByRole("main").getByText("Checking the disk").waitFor();
    await picture(page, "starting-light");
    await page.getByRole("link", { name: "grafana" }).waitFor();
    expect(await page.getByRole("status").filter({ hasText: "Running" }).count()).toBeGreaterThan(0);
  });

  test("that has crashed says why, and why it does not start again", async () => {
    const page = await openApp({ fake: "crashed" });
    await page.getByText("The machine ended unexpectedly").waitFor();
    await page.getByText("killed by signal 9").waitFor();
    await page.getByRole("button", { name: "Start machine" }).click();
    await page.getByRole("main").getByText("cannot grow: no space left").waitFor();
    await page.getByRole("alert").filter({ hasText: "The machine did not start" }).waitFor();
    await picture(page, "crashed-not-started-light");
    await page.getByRole("button", { name: "Start machine" }).click();
    await page.getByRole("link", { name: "grafana" }).waitFor();
  });

  test("is not stopped without saying what runs in it", async () => {
    const page = await openApp();
    await page.getByRole("link", { name: "grafana" }).waitFor();
    await page.getByRole("button", { name: "Machine actions" }).click();
    await page.getByRole("menuitem", { name: "Stop machine" }).click();
    const dialog = page.getByRole("dialog", { name: "Stop the machine?" });
    await dialog.getByText("8 running containers will be stopped").waitFor();
    await picture(page, "stop-machine-light");
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
    expect(await page.evaluate(() => window.fake.machine.status.state)).toBe("running");

    await page.getByRole("button", { name: "Machine actions" }).click();
    await page.getByRole("menuitem", { name: "Stop machine" }).click();
    await dialog.getByRole("button", { name: "Stop machine" }).click();
    await page.getByText("Containers, images and volumes are safe").waitFor();
    await page.getByRole("button", { name: "Start again" }).click();
    await page.getByRole("link", { name: "grafana" }).waitFor();
  });

  test("started or stopped by somebody else is followed", async () => {
    const page = await openApp();
    await page.getByRole("link", { name: "grafana" }).waitFor();
    await page.evaluate(() => window.fake.machine.set({ state: "stopped", last_exit: { at_ms: 0, clean: true, reason: "stopped by coracle stop" } }));
    await page.getByText("The machine is stopped").waitFor();
    await page.evaluate(() => void window.fake.machine.run("start", () => undefined));
    await page.getByRole("link", { name: "grafana" }).waitFor();
  });

  test("of another version is told, and nothing is forced", async () => {
    const page = await openApp({ fake: "older" });
    await page.getByText("The machine runs version 0.0.9, this app is 0.1.0").waitFor();
    await page.getByRole("link", { name: "grafana" }).waitFor();
    await expectAccessible(page);
    await picture(page, "older-light");
  });
});

test("an engine that restarts is reached again, and what was missed is seen", async () => {
  const page = await openApp();
  await page.getByRole("link", { name: "grafana" }).waitFor();
  await page.evaluate(() => {
    const { docker } = window.fake;
    window.fake.restartEngine();
    docker.remove(docker.container("grafana"), true);
  });
  await page.getByRole("link", { name: "grafana" }).waitFor({ state: "detached" });
  await page.getByRole("link", { name: "busy-logger" }).waitFor();
});

test("an engine that may not be used says so, and is tried again", async () => {
  const page = await openApp({ fake: "denied" });
  await page.getByRole("alert").getByText("Permission denied (os error 13)").waitFor();
  await page.getByText("This user may not use the engine’s socket.").waitFor();
  await page.getByRole("button", { name: "Try again" }).click();
  await page.getByRole("alert").getByText("Permission denied (os error 13)").waitFor();
  await page.evaluate(() => void (window.fake.unreachable = null));
  await page.getByRole("link", { name: "grafana" }).waitFor();
});

describe("the palette", () => {
  test("finds containers and pages by the keyboard alone", async () => {
    const page = await openApp();
    await page.getByRole("link", { name: "grafana" }).waitFor();
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "Commands" }).waitFor();
    await expectAccessible(page);
    await picture(page, "palette-light");
    await page.keyboard.type("graf");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "grafana" }).waitFor();
    await page.keyboard.press("Control+1");
    await page.getByRole("table", { name: "Containers" }).waitFor();
  });

  test("changes the theme, which is kept", async () => {
    const page = await openApp();
    await page.getByRole("link", { name: "grafana" }).waitFor();
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "Commands" }).waitFor();
    await page.keyboard.type("theme dark");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.documentElement.dataset["theme"] === "dark");
  });

  test("says when nothing matches, and Esc closes it", async () => {
    const page = await openApp();
    await page.getByRole("link", { name: "grafana" }).waitFor();
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "Commands" }).waitFor();
    await page.keyboard.type("no such thing");
    await page.getByText("Nothing matches.").waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("combobox", { name: "Commands" }).waitFor({ state: "detached" });
  });
});

test("wishes from the tray and from links are granted", async () => {
  const page = await openApp();
  await page.getByRole("link", { name: "grafana" }).waitFor();
  const id = await page.evaluate(() => window.fake.docker.container("busy-logger").id);
  await page.evaluate((to) => window.fake.wish({ to: "page", path: to }), `containers/${id}/inspect`);
  await page.getByRole("heading", { name: "busy-logger" }).waitFor();
  await page.evaluate(() => window.fake.wish({ to: "stop" }));
  await page.getByRole("dialog", { name: "Stop the machine?" }).waitFor();
});

test("a place that does not exist says so", async () => {
  const page = await openApp({ at: "nowhere" });
  await page.getByText("There is no such page").waitFor();
  await expectAccessible(page);
});

describe.each(themes)("pictures, %s", (theme) => {
  test.each([
    ["stopped", "The machine is stopped"],
    ["starting", "The machine is starting"],
    ["crashed", "The machine ended unexpectedly"],
    ["denied", "The engine cannot be reached"],
    ["empty", "No containers yet"],
  ])("%s", async (fake, title) => {
    const page = await openApp({ fake, theme, at: "containers" });
    await page.getByRole("heading", { name: title }).waitFor();
    await expectAccessible(page);
    await picture(page, `containers-${fake}-${theme}`);
  });
});
