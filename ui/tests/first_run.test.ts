/** The first run: from nothing to a container that has spoken, and what happens where that cannot be. */
import type { Page } from "playwright-core";
import { describe, expect, test } from "vitest";
import { expectAccessible, openApp, picture, type OpenOptions } from "./browser";

const first = (options: OpenOptions = {}) => openApp({ fake: "new", ...options, query: { first: "1", ...options.query } });
const press = (page: Page, name: string) => page.getByRole("button", { name, exact: true }).click();

for (const theme of ["light", "dark"] as const) {
  test(`goes from welcome to containers, ${theme}`, async () => {
    const page = await first({ theme });
    const dialog = page.getByRole("dialog", { name: "First steps with Coracle" });
    await dialog.getByRole("heading", { name: "Welcome aboard" }).waitFor();
    await picture(page, `first-run-welcome-${theme}`);
    await expectAccessible(page);

    await press(page, "Begin");
    await page.getByText("Ready, with one remark.").waitFor();
    await page.getByText("sudo apt-get install docker-cli").waitFor();
    await page.getByText("9 checks in order").click();
    await page.getByText("QEMU emulator version 7.2.19").waitFor();
    await picture(page, `first-run-computer-${theme}`);
    await expectAccessible(page);
    await press(page, "Change");
    await page.getByRole("textbox", { name: "Memory, GiB" }).fill("99");
    await page.getByText("This computer has 32 GiB in all.").waitFor();
    expect(await page.getByRole("button", { name: "Start the machine" }).isDisabled()).toBe(true);
    await page.getByRole("textbox", { name: "Memory, GiB" }).fill("6");
    await press(page, "Done");
    await page.getByText("6 GiB memory").waitFor();

    await page.evaluate(() => void (window.fake.machine.stepMs = 1200));
    await press(page, "Start the machine");
    await dialog.getByText("Checking the disk").waitFor();
    await picture(page, `first-run-starting-${theme}`);
    await page.getByRole("progressbar", { name: "Fetching the image hello-world" }).waitFor();
    await page.getByRole("heading", { name: "A container of hello-world:latest ran" }).waitFor();
    await page.getByRole("region", { name: "It says" }).getByText("Hello from Docker!").waitFor();
    await picture(page, `first-run-hello-${theme}`);
    await expectAccessible(page);
    expect(await page.evaluate(() => window.fake.docker.containers.size)).toBe(0);
    expect(await page.evaluate(() => window.fake.settings.report().values.memory.chosen)).toBe("6G");

    await press(page, "Continue");
    await page.getByText("Shall it use this machine from now on?").waitFor();
    await page.getByText("docker context use default").waitFor();
    await picture(page, `first-run-docker-${theme}`);
    await expectAccessible(page);
    expect(await page.evaluate(() => window.fake.computer.context.selected)).toBe(false);
    await press(page, "Use Coracle");
    await page.getByText("uses this machine.").waitFor();
    expect(await page.evaluate(() => window.fake.computer.context.selected)).toBe(true);
    await press(page, "Go to my containers");
    await page.getByRole("heading", { name: "No containers yet" }).waitFor();
    // It is not shown again by itself, and can be seen again.
    await page.goto(`${page.url().split("#")[0]}#/settings/app`);
    await press(page, "Show again");
    await dialog.waitFor();
  });
}

describe("the first run", () => {
  test("can be skipped at once, by button or by Escape", async () => {
    for (const skip of [(page: Page) => press(page, "Skip"), (page: Page) => page.keyboard.press("Escape")]) {
      const page = await first();
      await page.getByRole("heading", { name: "Welcome aboard" }).waitFor();
      await skip(page);
      await page.getByRole("dialog").waitFor({ state: "detached" });
      await page.getByText("The machine is stopped").waitFor();
      expect(await page.evaluate(() => window.fake.machine.status.state)).toBe("stopped");
    }
  });

  test("is led by the keyboard, and each step is read from its heading", async () => {
    const page = await first();
    await page.getByRole("heading", { name: "Welcome aboard" }).waitFor();
    await page.keyboard.press("Enter");
    await page.getByText("Ready, with one remark.").waitFor();
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("Is this computer ready?");
  });

  test("says what keeps the machine from running, and looks again", async () => {
    const page = await first({ theme: "dark", query: { doctor: "bad" } });
    await press(page, "Begin");
    await page.getByText("One thing keeps the machine from running.").waitFor();
    await page.getByText("sudo apt-get install qemu-system-x86").waitFor();
    await picture(page, "first-run-problem-dark");
    await expectAccessible(page);
    await page.getByRole("button", { name: "Try anyway" }).waitFor();
    await page.evaluate(() => {
      window.fake.computer.checks = window.fake.computer.checks.map(({ name }) => ({ name, verdict: "ok", found: "there" }));
    });
    await press(page, "Check again");
    await page.getByText("Everything is in place.").waitFor();
  });

  test("does not start with a settings file that cannot be used", async () => {
    const page = await first({ query: { settings: "broken" } });
    await press(page, "Begin");
    await page.getByText("config.toml:3:").waitFor();
    expect(await page.getByRole("button", { name: "Start the machine" }).isDisabled()).toBe(true);
    await picture(page, "first-run-broken-settings-light");
  });

  test("tells why the machine did not start, and tries again", async () => {
    const page = await first({ fake: "crashed" });
    await press(page, "Begin");
    await press(page, "Start the machine");
    await page.getByRole("heading", { name: "The machine did not start" }).waitFor();
    await page.getByText("no space left on the file system").waitFor();
    await picture(page, "first-run-not-started-light");
    await expectAccessible(page);
    await press(page, "Try again");
    // No hello-world is here, and nginx has echo.
    await page.getByRole("heading", { name: "A container of nginx:1.29 ran" }).waitFor();
    await page.getByText("Hello from a container in Coracle.").waitFor();
    expect(await page.evaluate(() => window.fake.docker.containers.size)).toBeGreaterThan(5);
  });

  test("without an image and a network says so and goes on", async () => {
    const page = await first();
    await page.getByRole("heading", { name: "Welcome aboard" }).waitFor();
    await page.evaluate(() => void (window.fake.docker.offline = true));
    await press(page, "Begin");
    await press(page, "Start the machine");
    await page.getByRole("heading", { name: "No container was run" }).waitFor();
    await page.getByText("no such host").waitFor();
    expect(await page.getByRole("region", { name: "It says" }).count()).toBe(0);
    await picture(page, "first-run-offline-light");
    await expectAccessible(page);
    await page.evaluate(() => void (window.fake.docker.offline = false));
    await press(page, "Try again");
    await page.getByText("Hello from Docker!").waitFor();
  });

  test("of a machine that runs already changes nothing of it", async () => {
    const page = await first({ fake: "default" });
    await press(page, "Begin");
    await page.getByText("The machine is running. Its size can be changed in Settings.").waitFor();
    await press(page, "Continue");
    await page.getByRole("heading", { name: "The machine was running already" }).waitFor();
  });

  test("tells when an environment variable decides what docker uses", async () => {
    const page = await first({ fake: "default", query: { docker: "held" } });
    await press(page, "Begin");
    await press(page, "Continue");
    await page.getByText("Hello from a container in Coracle.").waitFor();
    await press(page, "Continue");
    await page.getByText("Nothing is lost: what runs there runs on.").waitFor();
    await press(page, "Use Coracle");
    await page.getByText("DOCKER_HOST or DOCKER_CONTEXT, decides").waitFor();
    await picture(page, "first-run-docker-held-light");
    await expectAccessible(page);
    await press(page, "Go to my containers");
    await page.getByRole("link", { name: "grafana" }).waitFor();
  });

  test("leaves docker as it is if the user says so", async () => {
    const page = await first({ fake: "default" });
    await press(page, "Begin");
    await press(page, "Continue");
    await page.getByRole("region", { name: "It says" }).waitFor();
    await press(page, "Continue");
    await press(page, "Leave it as it is");
    await page.getByRole("link", { name: "grafana" }).waitFor();
    expect(await page.evaluate(() => window.fake.computer.context.current)).toBe("default");
  });
});
