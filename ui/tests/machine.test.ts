/** The machine's page: state, figures, logs, checks, diagnostics, clean-up, reset. */
import { describe, expect, test } from "vitest";
import type { Page } from "playwright-core";
import { expectAccessible, openApp, picture } from "./browser";

const chart = (page: Page, title: string) => page.getByRole("img", { name: new RegExp(`^${title}:`) });

/** Lets four minutes pass on the page's clock. */
async function pass(page: Page, seconds: number): Promise<void> {
  for (let passed = 0; passed < seconds; passed += 2) await page.clock.runFor(2000);
}

async function openMeasured(theme: "light" | "dark"): Promise<Page> {
  const page = await openApp({ at: "networks", theme });
  await page.getByRole("link", { name: "bridge", exact: true }).waitFor();
  await page.clock.install();
  await page.getByRole("link", { name: "Machine", exact: true }).click();
  await chart(page, "Computer: CPU").waitFor();
  return page;
}

describe.each(["light", "dark"] as const)("pictures, %s", (theme) => {
  test("how it does", async () => {
    const page = await openMeasured(theme);
    await pass(page, 240);
    await chart(page, "Machine: CPU").waitFor();
    await page.getByText("KVM: the processor runs the guest itself").waitFor();
    await page.getByText("0.82 s", { exact: true }).waitFor();
    await expectAccessible(page);
    await picture(page, `machine-${theme}`);
    await page.getByText("9.4 GiB of it by the machine").scrollIntoViewIfNeeded();
    await picture(page, `machine-disks-${theme}`);
  });

  test("it ended badly", async () => {
    const page = await openApp({ fake: "crashed", at: "machine", theme });
    await page.getByText("It ended unexpectedly 5 minutes ago:").waitFor();
    await page.getByText("the machine process was killed by signal 9").waitFor();
    await chart(page, "Computer: CPU").waitFor();
    await expectAccessible(page);
    await picture(page, `machine-crashed-${theme}`);
    await page.getByRole("main").getByRole("button", { name: "Start" }).click();
    await page.getByRole("note").getByText("cannot grow: no space left on the file system").waitFor();
    await expectAccessible(page);
  });

  test("it was never started", async () => {
    const page = await openApp({ fake: "new", at: "machine", theme });
    await page.getByText("Not started yet").waitFor();
    await chart(page, "Computer: CPU").waitFor();
    await expectAccessible(page);
    await picture(page, `machine-new-${theme}`);
  });

  test("it starts", async () => {
    const page = await openApp({ fake: "stopped", at: "machine", theme });
    await page.getByRole("main").getByRole("button", { name: "Start" }).waitFor();
    await page.evaluate(() => (window.fake.machine.stepMs = 3_600_000));
    await page.getByRole("main").getByRole("button", { name: "Start" }).click();
    await page.getByRole("region", { name: "Progress" }).getByText("Booting the machine").waitFor();
    await chart(page, "Computer: CPU").waitFor();
    await expectAccessible(page);
    await picture(page, `machine-starting-${theme}`);
  });

  test("its logs", async () => {
    const page = await openApp({ at: "machine/logs", theme });
    await page.getByText("420 lines").waitFor();
    await page.getByRole("searchbox", { name: "Search in logs" }).fill("refused");
    await page.getByText("5 of 5").waitFor();
    await expectAccessible(page);
    await picture(page, `machine-log-${theme}`);
    await page.getByRole("searchbox", { name: "Search in logs" }).fill("");
    await page.getByRole("button", { name: "Console" }).click();
    await page.getByText("180 lines").waitFor();
    await page.getByText("virtio-rng: device").first().waitFor();
    await expectAccessible(page);
    await picture(page, `machine-console-${theme}`);
  });

  test("checks of this computer", async () => {
    const page = await openApp({ at: "machine/checks", theme, query: { doctor: "bad" } });
    await page.getByText("1 problem, 2 warnings").waitFor();
    await page.getByText("sudo usermod -aG kvm $USER").waitFor();
    await expectAccessible(page);
    await picture(page, `machine-checks-${theme}`);
  });

  test("diagnostics", async () => {
    const page = await openApp({ at: "machine/diagnostics", theme });
    await page.getByRole("button", { name: /^config.toml/ }).click();
    await page.getByText("http://[removed]@proxy.example:3128").waitFor();
    await expectAccessible(page);
    await picture(page, `machine-diagnostics-${theme}`);
  });

  test("what a clean-up would free", async () => {
    const page = await openApp({ at: "machine/cleanup", theme });
    await page.getByRole("button", { name: /^Free .* GiB…$/ }).waitFor();
    await page.getByRole("button", { name: "Show stopped containers" }).click();
    await page.getByText("nightly-backup").waitFor();
    await expectAccessible(page);
    await picture(page, `machine-cleanup-${theme}`);
  });

  test("what a reset would delete", async () => {
    const page = await openApp({ at: "machine/cleanup", theme });
    await page.getByRole("button", { name: "Reset…" }).click();
    await page.getByRole("dialog").getByText(/^13 containers, 9 of them running/).waitFor();
    await expectAccessible(page);
    await picture(page, `machine-reset-${theme}`);
  });
});

test("is measured while somebody looks, and not while nobody does", async () => {
  const page = await openMeasured("light");
  const look = (state: "hidden" | "visible") =>
    page.evaluate((now) => {
      Object.defineProperty(document, "visibilityState", { value: now, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, state);
  const told = () => chart(page, "Computer: CPU").getAttribute("aria-label");
  await pass(page, 10);
  const first = await told();
  await pass(page, 10);
  expect(await told()).not.toBe(first);

  await look("hidden");
  await pass(page, 2);
  const hidden = await told();
  await pass(page, 30);
  expect(await told()).toBe(hidden);

  await look("visible");
  await expect.poll(told).not.toBe(hidden);
});

test("a start is told step by step, and the page is of the new machine", async () => {
  const page = await openApp({ fake: "stopped", at: "machine" });
  await page.getByText("The machine does not run: nothing to measure in it.").first().waitFor();
  await page.getByRole("main").getByRole("button", { name: "Start" }).click();
  const progress = page.getByRole("region", { name: "Progress" });
  await progress.getByText("Starting the engine").waitFor();
  await progress.getByText("Checking the disk").waitFor();
  await page.getByText(/ready 0.94 s after it was started/).waitFor();
  await chart(page, "Machine: memory").waitFor();
});

test("it is stopped after a question that names what runs", async () => {
  const page = await openApp({ at: "machine" });
  await page.getByRole("main").getByRole("button", { name: "Stop" }).click();
  await page.getByRole("dialog").getByText(/8 running containers will be stopped/).waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Stop machine" }).click();
  await page.getByText("Stopped now").or(page.getByText(/^Stopped \d+ seconds? ago/)).waitFor();
});

test("the engine's own failure is told, with the way to the log", async () => {
  const page = await openApp({ at: "machine" });
  await chart(page, "Machine: CPU").waitFor();
  await page.evaluate(() => {
    const { machine } = window.fake;
    const { guest } = machine.status;
    if (guest) machine.set({ guest: { ...guest, engine_restarts: 2 } });
  });
  await page.getByText("The engine crashed and was started again 2 times").waitFor();
  await page.evaluate(() => {
    const { machine } = window.fake;
    const { guest } = machine.status;
    if (guest) machine.set({ guest: { ...guest, stage: { stage: "failed", message: "<b>no space</b> left on /var/lib/docker" } } });
  });
  await page.getByText("<b>no space</b> left on /var/lib/docker").waitFor();
  await expectAccessible(page);
  await picture(page, "machine-engine-failed");
  await page.getByRole("link", { name: "See the log" }).click();
  await page.getByText("420 lines").waitFor();
});

test("the bundle is shown before it is saved", async () => {
  const page = await openApp({ at: "machine/diagnostics" });
  await page.getByText("Passwords, tokens and keys are already taken out.").waitFor();
  await page.getByRole("button", { name: /^engine.log/ }).click();
  await page.getByText("This file is empty.").waitFor();
  await page.getByRole("button", { name: "Save bundle…" }).click();
  await page.getByText("Diagnostics saved").waitFor();
  expect(await page.evaluate(() => Object.keys(window.fake.desktop.saved))).toEqual(["/home/ada/Downloads/coracle-default-diagnostics.tar.gz"]);
});

test("a clean-up frees what it said it would", async () => {
  const page = await openApp({ at: "machine/cleanup" });
  await page.getByRole("checkbox", { name: /^Unused volumes/ }).check();
  const free = page.getByRole("button", { name: /^Free .* GiB…$/ });
  await free.waitFor();
  const promised = (await free.textContent())?.match(/[\d.]+ GiB/)?.[0] ?? "";
  await free.click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("heading", { name: `Free ${promised}?` }).waitFor();
  await dialog.getByText("The data in those volumes cannot be brought back.").waitFor();
  await dialog.getByText(/^4 stopped containers, 48 MiB: /).waitFor();
  await picture(page, "machine-cleanup-ask");
  await dialog.getByRole("button", { name: `Free ${promised}` }).click();
  await page.getByRole("heading", { name: `Freed ${promised}` }).waitFor();
  await page.getByText("4 containers, 48 MiB").waitFor();
  await page.getByText("All clean").waitFor();
  await expectAccessible(page);
  await picture(page, "machine-cleanup-done");
  // What runs is as it was.
  expect(await page.evaluate(() => [...window.fake.docker.containers.values()].map(({ state }) => state).filter((state) => state === "exited" || state === "created"))).toEqual([]);
  expect(await page.evaluate(() => window.fake.docker.containers.size)).toBe(9);
});

test("without the stopped containers, what they have stays", async () => {
  const page = await openApp({ at: "machine/cleanup" });
  const free = page.getByRole("button", { name: /^Free .*…$/ });
  await free.waitFor();
  const all = await free.textContent();
  await page.getByRole("checkbox", { name: /^Stopped containers/ }).uncheck();
  await expect.poll(() => free.textContent()).not.toBe(all);
  for (const kind of ["Unused images", "Unused networks"]) await page.getByRole("checkbox", { name: new RegExp(`^${kind}`) }).uncheck();
  expect(await page.getByRole("button", { name: "Nothing is chosen" }).isDisabled()).toBe(true);
});

test("a reset asks for the machine's name, and leaves nothing", async () => {
  const page = await openApp({ at: "machine/cleanup" });
  await page.getByRole("button", { name: "Reset…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText(/altogether$/).waitFor();
  await dialog.getByLabel("Type default to confirm").fill("defaul");
  await dialog.getByRole("button", { name: "Delete everything" }).click();
  await dialog.getByText("Type the machine’s name, default, exactly.").waitFor();
  expect(await page.evaluate(() => window.fake.docker.containers.size)).toBe(13);
  await dialog.getByLabel("Type default to confirm").fill("default");
  await dialog.getByRole("button", { name: "Delete everything" }).click();
  await page.getByText("default is empty").waitFor();
  await page.getByText("All clean").waitFor();
  const left = await page.evaluate(() => {
    const { containers, images, volumes, networks } = window.fake.docker;
    return { containers: containers.size, images: images.size, volumes: volumes.size, networks: [...networks.values()].map(({ Name }) => Name) };
  });
  expect(left).toEqual({ containers: 0, images: 0, volumes: 0, networks: ["bridge", "host", "none"] });
});

test("clean-up waits for the machine", async () => {
  const page = await openApp({ fake: "stopped", at: "machine/cleanup" });
  await page.getByRole("heading", { name: "The machine is stopped" }).waitFor();
  await expectAccessible(page);
});
