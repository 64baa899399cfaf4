/** Settings: what is valid, what is applied and when, and the app's own preferences. */
import type { Page } from "playwright-core";
import { describe, expect, test } from "vitest";
import { expectAccessible, openApp, picture } from "./browser";

const themes = ["light", "dark"] as const;
const heading = (page: Page, name: string) => page.getByRole("heading", { name, exact: true, level: 2 }).waitFor();
const bar = (page: Page) => page.getByRole("region", { name: "Changes that are not applied" });

describe("every section", () => {
  for (const theme of themes) {
    for (const [name, title] of [["resources", "Resources"], ["files", "Files"], ["network", "Network"], ["engine", "Engine"], ["app", "App"], ["updates", "Updates"], ["about", "About"]] as const) {
      test(`${name}, ${theme}, is accessible`, async () => {
        const page = await openApp({ at: `settings/${name}`, theme });
        await heading(page, title);
        await page.getByRole("region", { name: title }).locator(".card, .later").first().waitFor();
        await picture(page, `settings-${name}-${theme}`);
        await expectAccessible(page);
      });
    }
  }

  test("is reached from the sidebar, and by the keyboard from the palette", async () => {
    const page = await openApp();
    await page.getByRole("link", { name: "Settings" }).click();
    await heading(page, "Resources");
    await page.getByRole("navigation", { name: "Settings" }).getByRole("link", { name: "Network" }).click();
    await heading(page, "Network");
    await page.keyboard.press("Control+k");
    await page.keyboard.type("settings");
    await page.keyboard.press("Enter");
    await heading(page, "Resources");
  });
});

describe("resources", () => {
  test("are checked while they are typed, and what is wrong is named", async () => {
    const page = await openApp({ at: "settings" });
    const memory = page.getByRole("textbox", { name: "Memory" });
    await memory.fill("99");
    await page.getByText("This computer has 32 GiB in all.").waitFor();
    expect(await memory.getAttribute("aria-invalid")).toBe("true");
    await page.getByRole("textbox", { name: "Disk" }).fill("10");
    await page.getByText("The disk has 64 GiB already and cannot shrink.").waitFor();
    await page.getByRole("textbox", { name: "CPUs" }).fill("12");
    await page.getByText("This computer has 8. More than that makes the machine slower").waitFor();
    await bar(page).getByText("To correct: Memory, Disk").waitFor();
    expect(await page.getByRole("button", { name: "Apply and restart" }).isDisabled()).toBe(true);
    await picture(page, "settings-wrong-light");
    await expectAccessible(page);
    await page.getByRole("button", { name: "Discard" }).click();
    await bar(page).waitFor({ state: "detached" });
    expect(await memory.inputValue()).toBe("4");
  });

  test("are set by slider, and applied with a restart that says what it stops", async () => {
    const page = await openApp({ at: "settings", theme: "dark" });
    const slider = page.getByRole("slider", { name: "CPUs, slider" });
    await slider.focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    expect(await page.getByRole("textbox", { name: "CPUs" }).inputValue()).toBe("6");
    expect(await slider.getAttribute("aria-valuetext")).toBe("6 CPUs");
    await page.getByRole("textbox", { name: "Memory" }).fill("6,5");
    await bar(page).getByText("Changed: CPUs, Memory").waitFor();
    await picture(page, "settings-changed-dark");
    await expectAccessible(page);
    await page.getByRole("button", { name: "Apply and restart" }).click();
    const dialog = page.getByRole("dialog", { name: "Restart the machine?" });
    await dialog.getByText("will be stopped").waitFor();
    await dialog.getByRole("button", { name: "Restart machine" }).click();
    await page.getByText("6 CPUs · 6.5 GiB").waitFor();
    await page.getByRole("button", { name: "Use the default for CPUs" }).waitFor();
    expect(await page.getByRole("note").count()).toBe(0);
  });

  test("that wait for a restart are named, and can wait", async () => {
    const page = await openApp({ at: "settings" });
    await page.getByRole("textbox", { name: "Memory" }).fill("8");
    await page.getByRole("button", { name: "Apply, restart later" }).click();
    const notice = page.getByRole("note").filter({ hasText: "Memory: the running machine still has the earlier value." });
    await notice.waitFor();
    await picture(page, "settings-restart-needed-light");
    await expectAccessible(page);
    await notice.getByRole("button", { name: "Later" }).click();
    await notice.waitFor({ state: "detached" });

    // Back to the default: nothing is to be waited for any more.
    await page.getByRole("button", { name: "Use the default for Memory" }).click();
    expect(await page.getByRole("textbox", { name: "Memory" }).inputValue()).toBe("8");
    await page.getByRole("button", { name: "Apply, restart later" }).click();
    await bar(page).waitFor({ state: "detached" });
    expect(await page.evaluate(() => window.fake.settings.report().values.memory)).toEqual({ chosen: null, effective: "4G" });
    expect(await page.evaluate(() => window.fake.settings.report().restart_needed)).toBe(false);
  });

  test("of a machine that is stopped are applied for its next start", async () => {
    const page = await openApp({ fake: "new", at: "settings" });
    await page.getByRole("textbox", { name: "Disk" }).fill("100");
    await bar(page).getByText("Takes effect when the machine starts.").waitFor();
    await page.getByRole("button", { name: "Apply", exact: true }).click();
    await page.getByText("Settings applied").waitFor();
    expect(await page.evaluate(() => window.fake.settings.report().values.disk.chosen)).toBe("100G");
  });

  test("changed by hand in the file are the ones that are shown", async () => {
    const page = await openApp({ at: "settings/about" });
    await heading(page, "About");
    await page.evaluate(() => window.fake.settings.choose("cpus", "2"));
    await page.getByRole("link", { name: "Containers" }).click();
    await page.getByRole("link", { name: "Settings" }).click();
    await page.getByRole("note").filter({ hasText: "started with other settings" }).waitFor();
    expect(await page.getByRole("textbox", { name: "CPUs" }).inputValue()).toBe("2");
  });
});

test("a settings file with an error is shown with its line and left alone", async () => {
  for (const theme of themes) {
    const page = await openApp({ at: "settings", theme, query: { settings: "broken" } });
    const alert = page.getByRole("alert").filter({ hasText: "The settings file has an error" });
    await alert.getByText("/home/ada/.coracle/default/config.toml, line 3").waitFor();
    await alert.getByText('"lots" is not a size').waitFor();
    expect(await page.getByRole("textbox", { name: "Memory" }).isDisabled()).toBe(true);
    expect(await page.getByRole("slider", { name: "CPUs, slider" }).isDisabled()).toBe(true);
    await picture(page, `settings-broken-${theme}`);
    await expectAccessible(page);
    await alert.getByRole("button", { name: "Copy path" }).click();
    expect(await page.evaluate(() => window.fake.desktop.copied)).toEqual(["/home/ada/.coracle/default/config.toml"]);
    await page.evaluate(() => void (window.fake.settings.error = null));
    await alert.getByRole("button", { name: "Read again" }).click();
    await alert.waitFor({ state: "detached" });
    expect(await page.getByRole("textbox", { name: "Memory" }).isEnabled()).toBe(true);
  }
});

describe("files", () => {
  test("are added by choosing folders, can be read-only, and nested ones are refused", async () => {
    const page = await openApp({ at: "settings/files" });
    await page.getByRole("radio", { name: /These folders/ }).check();
    await page.evaluate(() => void (window.fake.nextFile = "/srv/data"));
    await page.getByRole("button", { name: "Add folder…" }).click();
    await page.getByRole("switch", { name: "Read only: /srv/data" }).click();
    await bar(page).getByText("Changed: Shared folders").waitFor();
    await page.evaluate(() => void (window.fake.nextFile = "/home/ada/shop"));
    await page.getByRole("button", { name: "Add folder…" }).click();
    await page.getByText("Is inside /home/ada, which is shared as well.").waitFor();
    await bar(page).getByText("To correct: Shared folders").waitFor();
    await picture(page, "settings-files-wrong-light");
    await expectAccessible(page);
    await page.getByRole("button", { name: "Do not share /home/ada/shop" }).click();
    await page.getByRole("button", { name: "Apply, restart later" }).click();
    await page.getByRole("note").waitFor();
    expect(await page.evaluate(() => window.fake.settings.report().values.shares.chosen)).toBe("/home/ada,/tmp,/srv/data:ro");
  });

  test("that are not there are refused by the machine's side, at their place", async () => {
    const page = await openApp({ at: "settings/files", theme: "dark" });
    await page.getByRole("radio", { name: /These folders/ }).check();
    await page.evaluate(() => void (window.fake.nextFile = "/srv/gone"));
    await page.getByRole("button", { name: "Add folder…" }).click();
    await page.getByRole("button", { name: "Apply, restart later" }).click();
    await page.getByRole("alert").filter({ hasText: "cannot share /srv/gone: No such file or directory" }).waitFor();
    await picture(page, "settings-files-refused-dark");
    expect(await page.evaluate(() => window.fake.settings.report().values.shares.chosen)).toBeNull();
    await page.getByRole("button", { name: "Do not share /srv/gone" }).click();
    // What is left is the default, by name: still another choice than to follow it.
    await bar(page).getByText("Changed: Shared folders").waitFor();
    await page.getByRole("alert").waitFor({ state: "detached" });
  });

  test("can be none, and the default again", async () => {
    const page = await openApp({ at: "settings/files" });
    await page.getByRole("radio", { name: /None/ }).check();
    await page.getByRole("region", { name: "Shared folders" }).waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Apply, restart later" }).click();
    await page.getByRole("note").waitFor();
    expect(await page.evaluate(() => window.fake.settings.report().values.shares.chosen)).toBe("none");
    await page.getByRole("radio", { name: /Your home/ }).check();
    await page.getByRole("button", { name: "Apply, restart later" }).click();
    await page.getByRole("region", { name: "Shared folders" }).getByText("/home/ada").waitFor();
  });

  test("with markup in their names stay names", async () => {
    const page = await openApp({ at: "settings/files" });
    await page.getByRole("radio", { name: /These folders/ }).check();
    await page.evaluate(() => void (window.fake.nextFile = `/srv/<img src=x onerror="window.__pwned=1">\u202Egpj`));
    await page.getByRole("button", { name: "Add folder…" }).click();
    await page.getByText("<img src=x").first().waitFor();
    expect(await page.evaluate(() => "__pwned" in window)).toBe(false);
  });
});

test("proxies follow the session, are none, or one's own; a password is not shown", async () => {
  const page = await openApp({ at: "settings/network" });
  await heading(page, "Network");
  await page.evaluate(() => void (window.fake.settings.environment["https-proxy"] = "http://ada:secret@proxy.example:3128"));
  await page.getByRole("link", { name: "Containers" }).click();
  await page.goBack();
  await page.getByText("From the environment: http://…@proxy.example:3128").waitFor();
  await page.getByRole("group", { name: "Proxy for http", exact: true }).getByRole("button", { name: "Own" }).click();
  await page.getByText("Write an address, or choose “None”.").waitFor();
  const address = page.getByRole("textbox", { name: "Proxy for http, address" });
  await address.fill("ftp://proxy.example");
  await page.getByText("Known are http, https, socks5 and socks5h.").waitFor();
  await picture(page, "settings-network-wrong-light");
  await expectAccessible(page);
  await address.fill("http://me:pw@127.0.0.1:3128");
  await page.getByText("kept in the settings file, which only you can read").waitFor();
  await page.getByRole("group", { name: "Without a proxy" }).getByRole("button", { name: "None" }).click();
  await page.getByRole("switch", { name: "Hand them to containers" }).click();
  await page.getByRole("button", { name: "Apply, restart later" }).click();
  await page.getByRole("note").filter({ hasText: "Proxy for http, Without a proxy, Proxies for containers" }).waitFor();
  const values = await page.evaluate(() => window.fake.settings.report().values);
  expect([values["http-proxy"].chosen, values["no-proxy"].chosen, values["container-proxy"].chosen]).toEqual(["http://me:pw@127.0.0.1:3128", "none", "true"]);
});

describe("the app", () => {
  test("keeps its preferences at once", async () => {
    const page = await openApp({ at: "settings/app" });
    await page.getByRole("switch", { name: "Start at login" }).click();
    await page.getByRole("switch", { name: "A container’s health changed" }).click();
    expect(await page.getByRole("switch", { name: "Start at login" }).getAttribute("aria-checked")).toBe("true");
    await page.getByText("Dark", { exact: true }).click();
    await page.locator("html[data-theme=dark]").waitFor();
    await page.getByRole("link", { name: "Containers" }).click();
    await page.goBack();
    expect(await page.getByRole("switch", { name: "A container’s health changed" }).getAttribute("aria-checked")).toBe("true");
  });

  test("tells the desktop of a container that died, unless it was stopped", async () => {
    const page = await openApp({ at: "settings/app" });
    await page.getByRole("switch", { name: "A container died" }).waitFor();
    await page.getByText("Running").first().waitFor();
    await page.waitForFunction(() => {
      const { docker, desktop } = window.fake;
      // Until the app listens to events, what happens is not told.
      docker.start(docker.container("grafana"));
      docker.end(docker.container("grafana"), 3, "die");
      return desktop.notified.includes("grafana died: It ended with 3. Its logs may say why.");
    });
    await page.evaluate(() => {
      const { docker } = window.fake;
      docker.end(docker.container("harbour-shop-web-1"), 143, "kill", "die", "stop");
    });
    expect(await page.evaluate(() => window.fake.desktop.notified.filter((said) => said.includes("web-1")))).toEqual([]);
  });

  test("says where a desktop shows no tray", async () => {
    const page = await openApp({ at: "settings/app", query: { tray: "0" } });
    await page.getByText("This desktop shows no tray").waitFor();
    expect(await page.getByRole("switch", { name: "Keep running in the tray" }).isDisabled()).toBe(true);
    await expectAccessible(page);
  });
});

describe("updates", () => {
  test("are installed when the user says so, with progress", async () => {
    const page = await openApp({ at: "settings/updates", query: { update: "newer" } });
    await page.getByRole("button", { name: "Check now" }).click();
    await page.getByRole("heading", { name: "Version 0.2.0 is there" }).waitFor();
    await page.getByText("<b>No markup</b> of others is run").waitFor();
    await picture(page, "settings-updates-newer-light");
    await expectAccessible(page);
    await page.evaluate(() => void (window.fake.updates.pieceMs = 400));
    await page.getByRole("button", { name: "Install", exact: true }).click();
    await page.getByText("15.3 MiB of 45.8 MiB").waitFor();
    await picture(page, "settings-updates-installing-light");
    await expectAccessible(page);
    await page.evaluate(() => void (window.fake.updates.pieceMs = 1));
    await page.getByRole("heading", { name: "Version 0.2.0 is installed" }).waitFor();
    await picture(page, "settings-updates-installed-light");
    await page.getByRole("button", { name: "Quit the app" }).click();
    expect(await page.evaluate(() => window.fake.desktop.quit)).toBe("leave");
  });

  test("can be skipped, and taken back", async () => {
    const page = await openApp({ at: "settings/updates", theme: "dark", query: { update: "newer" } });
    await page.getByRole("button", { name: "Check now" }).click();
    await page.getByRole("button", { name: "Skip this version" }).click();
    await page.getByRole("heading", { name: "Version 0.2.0 is there, and you skipped it" }).waitFor();
    await picture(page, "settings-updates-skipped-dark");
    await expectAccessible(page);
    await page.getByRole("button", { name: "Do not skip" }).click();
    await page.getByRole("button", { name: "Install", exact: true }).waitFor();
  });

  test("that fail say why and leave this version as it is", async () => {
    const page = await openApp({ at: "settings/updates", theme: "dark", query: { update: "tampered" } });
    await page.getByRole("button", { name: "Check now" }).click();
    await page.evaluate(() => void (window.fake.updates.pieceMs = 1));
    await page.getByRole("button", { name: "Install", exact: true }).click();
    await page.getByRole("heading", { name: "Version 0.2.0 was not installed" }).waitFor();
    await page.getByText("The signature verification failed").waitFor();
    await picture(page, "settings-updates-failed-dark");
    await expectAccessible(page);
    await page.evaluate(() => void (window.fake.updates.outcome = "newer"));
    await page.getByRole("button", { name: "Try again" }).click();
    await page.getByRole("heading", { name: "Version 0.2.0 is installed" }).waitFor();
  });

  for (const [outcome, title] of [["newest", "This is the newest version"], ["unreachable", "Updates could not be looked for"], ["unconfigured", "This copy does not update itself"]] as const) {
    test(`${outcome}: it says so`, async () => {
      const page = await openApp({ at: "settings/updates", query: { update: outcome } });
      await page.getByRole("button", { name: "Check now" }).click();
      await page.getByRole("heading", { name: title }).waitFor();
      await picture(page, `settings-updates-${outcome}-light`);
      await expectAccessible(page);
    });
  }

  test("are looked for anew on another channel", async () => {
    const page = await openApp({ at: "settings/updates" });
    await page.getByRole("button", { name: "Check now" }).click();
    await page.getByText("On the stable channel").waitFor();
    await page.evaluate(() => void (window.fake.updates.outcome = "newer"));
    await page.getByRole("button", { name: "Beta" }).click();
    await page.getByRole("heading", { name: "Version 0.2.0 is there" }).waitFor();
  });
});

test("about tells versions, files and the licence", async () => {
  const page = await openApp({ at: "settings/about" });
  await page.getByText("28.5.1").waitFor();
  await page.getByRole("button", { name: "Copy: Docker’s socket" }).click();
  await page.getByRole("button", { name: "Read it" }).click();
  const desktop = await page.evaluate(() => window.fake.desktop);
  expect(desktop.copied).toEqual(["/home/ada/.coracle/default/docker.sock"]);
  expect(desktop.opened).toEqual(["https://www.apache.org/licenses/LICENSE-2.0"]);
});
