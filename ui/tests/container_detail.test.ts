/** One container in full, tab by tab. */
import { describe, expect, test } from "vitest";
import type { Page } from "playwright-core";
import { expectAccessible, openApp, picture, type OpenOptions } from "./browser";
import { sum, tasksDuring } from "./trace";

async function openContainer(name: string, tab: string, options: OpenOptions = {}): Promise<Page> {
  const page = await openApp(options);
  await page.waitForFunction(() => "fake" in window);
  await page.evaluate(
    ([wanted, to]) => {
      const found = [...window.fake.docker.containers.values()].find((one) => one.name === wanted);
      location.hash = `#/containers/${found?.id}/${to}`;
    },
    [name, tab] as const,
  );
  await page.getByRole("tab", { selected: true }).waitFor();
  return page;
}

const body = (page: Page) => page.getByRole("tabpanel");
const screen = (page: Page) => page.evaluate(() => [...document.querySelectorAll(".xterm-rows > div")].map((line) => line.textContent).join("\n"));

describe.each(["light", "dark"] as const)("pictures, %s", (theme) => {
  test.each([
    ["logs", "harbour-shop-api-1", "SELECT * FROM orders"],
    ["stats", "busy-logger", "in total"],
    ["files", "grafana", "drwxr-xr-x"],
    ["inspect", "harbour-shop-web-1", "harbour-shop_default"],
    ["environment", "harbour-shop-api-1", "LOG_LEVEL"],
    ["mounts", "harbour-shop-web-1", "/etc/nginx/nginx.conf"],
  ])("%s", async (tab, name, seen) => {
    const page = await openContainer(name, tab, { theme });
    await body(page).getByText(seen).first().waitFor();
    // A line has more than a point.
    if (tab === "stats") await page.waitForFunction(() => (document.querySelector("path.line")?.getAttribute("d") ?? "").split("L").length > 4);
    await expectAccessible(page);
    await picture(page, `container-${tab}-${theme}`);
  });

  test("terminal", async () => {
    const page = await openContainer("harbour-shop-api-1", "terminal", { theme });
    await page.waitForFunction(() => document.querySelector(".xterm-rows")?.textContent?.includes("#"));
    await page.keyboard.type("ls /\r");
    await page.waitForFunction(() => document.querySelector(".xterm-rows")?.textContent?.includes("etc"));
    await expectAccessible(page);
    await picture(page, `container-terminal-${theme}`);
  });
});

test("is stopped, started, and removed; then the list is shown", async () => {
  const page = await openContainer("grafana", "logs");
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await page.getByText("Exited with 0").waitFor();
  await page.getByRole("tab", { name: "Stats" }).click();
  await page.getByText("This container is not running").waitFor();
  await expectAccessible(page);
  await page.getByRole("button", { name: "Start", exact: true }).click();
  await body(page).getByText("100 % is one core").waitFor();
  await page.getByRole("button", { name: "Remove…" }).click();
  await page.getByRole("button", { name: "Remove container" }).click();
  await page.getByRole("table", { name: "Containers" }).waitFor();
  expect(await page.getByRole("link", { name: "grafana" }).count()).toBe(0);
});

test("that is removed elsewhere says that it is gone", async () => {
  const page = await openContainer("grafana", "inspect");
  await body(page).getByText("grafana/grafana:12.3").waitFor();
  await page.evaluate(() => window.fake.docker.remove(window.fake.docker.container("grafana"), true));
  await page.getByText("This container is gone").waitFor();
  await picture(page, "container-gone-light");
});

describe("logs", () => {
  test("follow what is written, until the user scrolls away", async () => {
    const page = await openContainer("busy-logger", "logs");
    const log = page.getByRole("region", { name: "Log lines" });
    await log.getByText("request 99999").waitFor();
    await log.getByText("request 100004").waitFor();
    await log.hover();
    await page.mouse.wheel(0, -2000);
    await page.getByRole("button", { name: "To the end" }).waitFor();
    const [top] = await log.locator(".line").allTextContents();
    await page.waitForFunction(() => Number(/[\d,]+(?= lines)/.exec(document.body.textContent ?? "")?.[0].replace(",", "")) > 100_008);
    expect((await log.locator(".line").allTextContents())[0]).toBe(top);
    await page.getByRole("button", { name: "To the end" }).click();
    await page.getByRole("button", { name: "To the end" }).waitFor({ state: "detached" });
  });

  test("are searched: newest first, and only what matches", async () => {
    const page = await openContainer("busy-logger", "logs");
    const log = page.getByRole("region", { name: "Log lines" });
    await log.getByText("request 99999").waitFor();
    await page.getByRole("searchbox", { name: "Search in logs" }).fill("request 5072 failed");
    await page.getByText("1 of 1").waitFor();
    await log.getByText("request 5072 failed").waitFor();
    await picture(page, "container-logs-search-light");
    await page.getByRole("searchbox", { name: "Search in logs" }).fill("ERROR");
    await page.getByText("1,754 of 1,754").waitFor();
    await page.getByRole("button", { name: "Previous match" }).click();
    await page.getByText("1,753 of 1,754").waitFor();
    await page.getByText("Only matching").click();
    await page.waitForFunction(() => [...document.querySelectorAll(".line")].every((line) => line.textContent?.trim().startsWith("ERROR")));
    await page.getByRole("searchbox", { name: "Search in logs" }).fill("no such words");
    await page.getByText("No match").waitFor();
  });

  test("100,000 lines: only those in sight exist, wherever one jumps", async () => {
    const page = await openContainer("busy-logger", "logs");
    const log = page.getByRole("region", { name: "Log lines" });
    await log.getByText("request 99999").waitFor();
    const JUMPS = 60;
    const { tasks, result: rows } = await tasksDuring(page, () =>
      log.evaluate(async (scroller, jumps) => {
        for (let step = 0; step < jumps; step++) {
          scroller.scrollTop = ((step * 7919) % 100) * 19_000;
          await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));
        }
        return scroller.querySelectorAll(".line").length;
      }, JUMPS),
    );
    const each = sum(tasks) / JUMPS;
    console.log(`log of 100,000 lines: a jump takes ${each.toFixed(1)} ms of processor time, its longest task ${(tasks.at(-1) ?? 0).toFixed(1)} ms`);
    expect(rows).toBeGreaterThan(10);
    expect(rows).toBeLessThan(80);
    expect(tasks.length).toBeGreaterThan(JUMPS);
  });

  test("are saved to a file without Docker's frames", async () => {
    const page = await openContainer("nightly-backup", "logs");
    await body(page).getByText("25 lines").waitFor();
    await page.getByRole("button", { name: "Download" }).click();
    await page.getByText("Logs saved").waitFor();
    const saved = await page.evaluate(() => {
      const [[path, bytes] = []] = Object.entries(window.fake.desktop.saved);
      return { path, text: new TextDecoder().decode(bytes) };
    });
    expect(saved.path).toBe("/home/ada/Downloads/nightly-backup.log");
    expect(saved.text.split("\n")).toHaveLength(26);
    expect(saved.text.charCodeAt(0)).toBe(27);
  });

  test("with control sequences and a line of 10 MiB harm nothing", async () => {
    const page = await openContainer(`<img src=x onerror="window.__pwned=1"><b>bold</b>`, "logs", { fake: "hostile" });
    const log = page.getByRole("region", { name: "Log lines" });
    await log.getByText("the line after 10 MiB").waitFor();
    await log.getByText("red after clear screen").waitFor();
    await log.getByText("progress 100 %").waitFor();
    await log.getByText("xxxxxxxx").waitFor();
    await picture(page, "container-logs-hostile-light");
    expect(await log.locator("script, img, a").count()).toBe(0);
    expect(await page.evaluate(() => "__pwned" in window)).toBe(false);
  });
});

describe("the terminal", () => {
  test("echoes, knows its size, and is told a new one", async () => {
    const page = await openContainer("harbour-shop-api-1", "terminal");
    await page.waitForFunction(() => document.querySelector(".xterm-rows")?.textContent?.includes("#"));
    await page.keyboard.type("echo ahoy\r");
    await page.waitForFunction(() => document.querySelector(".xterm-rows")?.textContent?.includes("# echo ahoy"));
    await page.keyboard.type("stty\r");
    await page.waitForFunction(() => /\d+ \d+/.test(document.querySelector(".xterm-rows")?.textContent ?? ""));
    const first = /(\d+) (\d+)/.exec(await screen(page));
    await page.setViewportSize({ width: 900, height: 620 });
    await page.keyboard.type("stty\r");
    await page.waitForFunction((before) => {
      const sizes = [...(document.querySelector(".xterm-rows")?.textContent ?? "").matchAll(/(\d+) (\d+)(?=\s*root)/g)].map((match) => match[0]);
      return sizes.length > 0 && sizes.at(-1) !== before;
    }, first?.[0]);
  });

  test("says how its program ended, and starts it again", async () => {
    const page = await openContainer("harbour-shop-api-1", "terminal");
    await page.waitForFunction(() => document.querySelector(".xterm-rows")?.textContent?.includes("#"));
    await page.keyboard.type("exit 3\r");
    await page.getByText("The program ended with 3.").waitFor();
    await page.getByRole("button", { name: "Start again" }).click();
    await page.waitForFunction(() => document.querySelector(".xterm-rows")?.textContent?.includes("#"));
  });

  test("says that an image has no shell", async () => {
    const page = await openContainer("grafana", "terminal");
    await page.getByText("This image may have no shell.").waitFor();
    await picture(page, "container-terminal-no-shell-light");
  });
});

describe("files", () => {
  test.each([
    ["asked of a shell", "harbour-shop-api-1"],
    ["read from the archive where there is none", "grafana"],
    ["read from the archive of a container that does not run", "nightly-backup"],
  ])("are %s", async (_, name) => {
    const page = await openContainer(name, "files");
    await page.getByRole("button", { name: "etc", exact: true }).click();
    await page.getByText("hostname").waitFor();
    await page.getByRole("button", { name: "nginx", exact: true }).click();
    await page.getByText("nginx.conf").waitFor();
    await page.getByRole("button", { name: "Root folder" }).click();
    await page.getByRole("button", { name: "tmp", exact: true }).click();
    await page.getByText("This folder is empty").waitFor();
  });

  test("are downloaded as they are, folders as archives", async () => {
    const page = await openContainer("harbour-shop-api-1", "files");
    await page.getByRole("button", { name: "Download app" }).click();
    await page.getByText("app saved").waitFor();
    await page.getByRole("button", { name: "etc", exact: true }).click();
    await page.getByRole("button", { name: "Download hostname" }).click();
    await page.getByText("hostname saved, 7 B").waitFor();
    const saved = await page.evaluate(() => Object.entries(window.fake.desktop.saved).map(([path, bytes]) => [path, path.endsWith(".tar") ? bytes.length % 512 : new TextDecoder().decode(bytes)]));
    expect(saved).toEqual([
      ["/home/ada/Downloads/app.tar", 0],
      ["/home/ada/Downloads/hostname", "a1b2c3\n"],
    ]);
  });

  test("are uploaded, and nothing is replaced unasked", async () => {
    const page = await openContainer("harbour-shop-api-1", "files");
    await page.getByRole("button", { name: "tmp", exact: true }).click();
    await page.getByText("This folder is empty").waitFor();
    await page.getByRole("button", { name: "Upload file…" }).click();
    await page.getByRole("row").getByText("notes.txt").waitFor();
    await page.getByRole("button", { name: "Upload file…" }).click();
    const dialog = page.getByRole("dialog", { name: "notes.txt is there already" });
    await dialog.getByText("The present notes.txt (19 B)").waitFor();
    await dialog.getByRole("button", { name: "Cancel" }).click();
  });

  test("whose folder cannot be read say so", async () => {
    const page = await openContainer("nightly-backup", "files");
    await page.getByRole("button", { name: "app", exact: true }).click();
    await page.getByText("package.json").waitFor();
    await page.evaluate(() => {
      const one = window.fake.docker.container("nightly-backup");
      one.files = one.files.filter(({ name }) => !name.startsWith("/app"));
    });
    await page.getByRole("button", { name: "Read the folder again" }).click();
    await page.getByText("The folder cannot be read").waitFor();
    await expectAccessible(page);
  });

  test("with names of markup are only names", async () => {
    const page = await openContainer(`<img src=x onerror="window.__pwned=1"><b>bold</b>`, "files", { fake: "hostile" });
    await page.getByRole("row").getByText("<img src=x").waitFor();
    await page.getByText("�gpj.sh").waitFor();
    expect(await page.locator("img").count()).toBe(0);
  });
});

test("the environment hides what sounds secret until asked", async () => {
  const page = await openContainer("harbour-shop-api-1", "environment");
  await page.getByText("LOG_LEVEL").waitFor();
  expect(await page.getByText("tok_4f9a0d21").count()).toBe(0);
  await page.getByRole("button", { name: "Show values" }).click();
  await page.getByText("tok_4f9a0d21").waitFor();
  await page.getByRole("button", { name: "Copy API_TOKEN" }).click();
  expect(await page.evaluate(() => window.fake.desktop.copied)).toEqual(["tok_4f9a0d21"]);
});

test("inspect is also JSON, with nothing in it obeyed", async () => {
  const page = await openContainer(`<img src=x onerror="window.__pwned=1"><b>bold</b>`, "inspect", { fake: "hostile" });
  await page.getByRole("button", { name: "JSON", exact: true }).click();
  await page.getByRole("region", { name: "JSON" }).getByText('"OOMKilled": false').waitFor();
  await expectAccessible(page);
  await picture(page, "container-inspect-json-light");
  expect(await page.locator("img").count()).toBe(0);
  await page.getByRole("button", { name: "Copy JSON" }).click();
  expect(JSON.parse(await page.evaluate(() => window.fake.desktop.copied[0] ?? ""))).toHaveProperty("Id");
});

test("tabs are walked by the arrow keys", async () => {
  const page = await openContainer("grafana", "logs");
  await page.getByRole("tab", { name: "Logs" }).focus();
  await page.keyboard.press("ArrowLeft");
  await page.getByRole("tab", { name: "Mounts", selected: true }).waitFor();
  await page.keyboard.press("ArrowRight");
  await page.getByRole("tab", { name: "Logs", selected: true }).waitFor();
});
