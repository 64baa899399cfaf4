/** Images: the list, what is in one, and what is done with them. */
import { describe, expect, test } from "vitest";
import type { Page } from "playwright-core";
import { expectAccessible, openApp, picture } from "./browser";

const row = (page: Page, name: string | RegExp) => page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) });
const tags = (page: Page) => page.evaluate(() => [...window.fake.docker.images.values()].flatMap((image) => image.tags));
const menu = async (page: Page, of: string, item: string) => {
  await page.getByRole("button", { name: of, exact: true }).click();
  await page.getByRole("menuitem", { name: item }).click();
};
const pull = async (page: Page, name: string) => {
  await page.getByRole("button", { name: "Pull…" }).click();
  await page.getByLabel("Image", { exact: true }).fill(name);
  await page.keyboard.press("Enter");
};
const openDetail = async (page: Page, name: string, tab?: string) => {
  await page.getByRole("link", { name, exact: true }).click();
  await page.getByRole("tab", { name: "Layers" }).waitFor();
  if (tab) await page.getByRole("tab", { name: tab }).click();
};

describe.each(["light", "dark"] as const)("pictures, %s", (theme) => {
  test("the list", async () => {
    const page = await openApp({ at: "images", theme });
    await page.getByText("on disk").waitFor();
    await expectAccessible(page);
    await picture(page, `images-${theme}`);
  });

  test("nothing matches", async () => {
    const page = await openApp({ at: "images", theme });
    await page.getByRole("searchbox").fill("no such thing");
    await page.getByText("Nothing matches").waitFor();
    await expectAccessible(page);
    await picture(page, `images-no-match-${theme}`);
    await page.getByRole("button", { name: "Show all" }).click();
    await row(page, "redis:8").waitFor();
  });

  test("no images yet", async () => {
    const page = await openApp({ at: "images", theme, fake: "empty" });
    await page.getByText("No images yet").waitFor();
    await expectAccessible(page);
    await picture(page, `images-empty-${theme}`);
  });

  test("machine stopped, engine not reached", async () => {
    const stopped = await openApp({ at: "images", theme, fake: "stopped" });
    await stopped.getByText("The machine is stopped").waitFor();
    await expectAccessible(stopped);
    await picture(stopped, `images-stopped-${theme}`);
    const denied = await openApp({ at: "images", theme, fake: "denied" });
    await denied.getByText("Permission denied").waitFor();
    await expectAccessible(denied);
    await picture(denied, `images-denied-${theme}`);
  });

  test("every tab of one", async () => {
    const page = await openApp({ at: "images", theme });
    await openDetail(page, "harbour/api:dev");
    await page.getByText("3 layers with files").waitFor();
    for (const tab of ["Layers", "Used by", "Tags", "Configuration"]) {
      await page.getByRole("tab", { name: tab }).click();
      await page.getByRole("tab", { name: tab, selected: true }).waitFor();
      await page.getByRole("tabpanel").getByText({ Layers: "file:5d20be7a1f33 in /", "Used by": "harbour-shop-worker-1", Tags: "Digest", Configuration: "Working folder" }[tab] ?? "").first().waitFor();
      await expectAccessible(page);
      await picture(page, `image-${tab.toLowerCase().replace(" ", "-")}-${theme}`);
    }
    await page.getByRole("button", { name: "JSON", exact: true }).click();
    await page.getByRole("region", { name: "JSON" }).getByText('"Architecture"').waitFor();
    await expectAccessible(page);
    await picture(page, `image-json-${theme}`);
  });

  test("a pull that fails on the way", async () => {
    const page = await openApp({ at: "images", theme });
    await pull(page, "flaky/thing:1");
    await page.getByText("Downloading").first().waitFor();
    await picture(page, `images-pull-${theme}`);
    await page.getByText("flaky/thing:1 was not pulled").last().waitFor();
    await page.getByText("The network was lost").waitFor();
    await page.getByRole("dialog").getByText("connection reset by peer").waitFor();
    await expectAccessible(page);
    await picture(page, `images-pull-lost-${theme}`);
  });

  test("the clean-up", async () => {
    const page = await openApp({ at: "images", theme });
    await menu(page, "More for images", "Clean up…");
    await page.getByText("Frees 472 MiB").waitFor();
    await expectAccessible(page);
    await picture(page, `images-prune-${theme}`);
  });

  test("the form to run one, with what is wrong in it", async () => {
    const page = await openApp({ at: "images", theme });
    await page.getByRole("button", { name: "Run nginx:1.29" }).click();
    await page.getByLabel("Container name").fill("grafana");
    await page.getByLabel("Port of this computer 1").fill("8080");
    await page.getByRole("button", { name: "Add volume or folder" }).click();
    await page.getByRole("button", { name: "Add variable" }).click();
    await expectAccessible(page);
    await picture(page, `images-run-${theme}`);
    await page.getByRole("button", { name: "Run", exact: true }).click();
    await page.getByText("4 fields to correct").waitFor();
    await page.getByText("harbour-shop-web-1 has this port").waitFor();
    expect(await page.getByLabel("Container name").evaluate((input) => input === document.activeElement)).toBe(true);
    await expectAccessible(page);
    await picture(page, `images-run-wrong-${theme}`);
  });

  test("the question before one is removed", async () => {
    const page = await openApp({ at: "images", theme });
    await menu(page, "More for node:24-bookworm-slim", "Remove…");
    await page.getByText("This frees 131 MiB").waitFor();
    await expectAccessible(page);
    await picture(page, `images-remove-${theme}`);
  });
});

test("who uses an image is a link; what nobody uses is found", async () => {
  const page = await openApp({ at: "images" });
  await row(page, "grafana/grafana:12.3").getByRole("link", { name: "grafana", exact: true }).click();
  await page.waitForURL(/#\/containers\/[0-9a-f]{64}/);
  await page.goBack();
  await page.getByRole("button", { name: /^Untagged/ }).click();
  await row(page, "redis:8").waitFor({ state: "detached" });
  expect(await page.getByRole("row").count()).toBe(5);
  await page.getByRole("button", { name: /^All 12/ }).click();
  await page.getByRole("button", { name: "Size" }).click();
  await page.getByRole("row").nth(1).getByText("ghcr.io/harbour/tide-tables").waitFor();
});

test("a pull shows each layer, goes on behind its dialog, and ends in the list", async () => {
  const page = await openApp({ at: "images" });
  await page.getByRole("button", { name: "Pull…" }).click();
  await page.getByLabel("Image", { exact: true }).fill("Not An Image");
  await page.keyboard.press("Enter");
  await page.getByText("This is not an image’s name").waitFor();
  await page.getByLabel("Image", { exact: true }).fill("alpine:3.22");
  await page.keyboard.press("Enter");
  await page.getByRole("progressbar", { name: "a91b7c60ee12" }).waitFor();
  await page.getByRole("button", { name: "Go on in the background" }).click();
  await page.getByRole("region", { name: "Under way" }).getByText("Pulling alpine:3.22").waitFor();
  await page.getByRole("region", { name: "Under way" }).waitFor({ state: "detached" });
  await row(page, "alpine:3.22").waitFor();
  await page.getByRole("button", { name: "Show image" }).click();
  await page.getByRole("heading", { name: "alpine:3.22" }).waitFor();
});

test("a pull is cancelled, and nothing is left of it", async () => {
  const page = await openApp({ at: "images" });
  await pull(page, "alpine:3.22");
  await page.getByRole("progressbar", { name: "a91b7c60ee12" }).waitFor();
  await page.getByRole("button", { name: "Cancel pull" }).click();
  await page.getByRole("region", { name: "Under way" }).waitFor({ state: "detached" });
  // Whatever was pulled after it is there before anything of it could be.
  await pull(page, "busybox:1");
  await row(page, "busybox:1").waitFor();
  expect(await tags(page)).not.toContain("alpine:3.22");
});

test("a pull that failed is told in Docker's words, and done again", async () => {
  const page = await openApp({ at: "images" });
  await pull(page, "missing/thing");
  await page.getByText("pull access denied for missing/thing, repository does not exist").last().waitFor();
  await page.getByText("needs a login").waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Close", exact: true }).click();
  await page.evaluate(() => (window.fake.docker.offline = true));
  await pull(page, "alpine:3.22");
  await page.getByText("The network was lost").waitFor();
  await page.evaluate(() => (window.fake.docker.offline = false));
  await page.getByRole("button", { name: "Pull again" }).click();
  await row(page, "alpine:3.22").waitFor();
});

test("a pull that fails while another page is open is told there", async () => {
  const page = await openApp({ at: "images" });
  await pull(page, "flaky/thing:1");
  await page.getByRole("button", { name: "Go on in the background" }).click();
  await page.getByRole("link", { name: "Volumes", exact: true }).click();
  await page.getByRole("alert").getByText("flaky/thing:1 was not pulled").waitFor();
  await page.getByRole("link", { name: "Images", exact: true }).click();
  await page.getByRole("region", { name: "Under way" }).getByRole("button", { name: "Details" }).click();
  await page.getByText("The network was lost").waitFor();
});

test("an engine that is lost during a pull is told apart", async () => {
  const page = await openApp({ at: "images" });
  await pull(page, "alpine:3.22");
  await page.getByRole("progressbar", { name: "a91b7c60ee12" }).waitFor();
  await page.evaluate(() => window.fake.restartEngine());
  await page.getByText("The engine was lost during the pull").waitFor();
  await page.getByRole("button", { name: "Pull again" }).click();
  await row(page, "alpine:3.22").waitFor();
});

test("an image is run with all that the form has", async () => {
  const page = await openApp({ at: "images" });
  await page.getByRole("button", { name: "Run postgres:17" }).click();
  await page.getByLabel("Container name").fill("orders-db");
  await page.getByLabel("Network", { exact: true }).selectOption("harbour-shop_default");
  await page.getByLabel("Port of this computer 1").fill("5433");
  await page.getByLabel("Port in the container 1").fill("5432");
  await page.getByRole("button", { name: "Add volume or folder" }).click();
  await page.getByLabel("Volume 1").fill("orders");
  await page.getByLabel("Path in the container 1").fill("/var/lib/postgresql/data");
  await page.getByRole("button", { name: "Add variable" }).click();
  await page.getByRole("textbox", { name: "Variable 1" }).fill("POSTGRES_PASSWORD");
  await page.getByLabel("Value 1").fill("anchor = 1");
  await page.getByLabel("Command").fill("postgres -c 'max_connections=20'");
  await page.getByLabel("Restart", { exact: true }).selectOption({ label: "Unless I stop it" });
  await page.getByRole("button", { name: "Run", exact: true }).click();
  await page.getByRole("heading", { name: "orders-db" }).waitFor();
  const made = await page.evaluate(() => {
    const found = [...window.fake.docker.containers.values()].find(({ name }) => name === "orders-db");
    return found && { state: found.state, env: found.env, command: found.command, network: found.network, ports: found.ports, mounts: found.mounts.map(({ Name, Destination }) => [Name, Destination]) };
  });
  expect(made).toMatchObject({
    state: "running",
    command: ["postgres", "-c", "max_connections=20"],
    network: "harbour-shop_default",
    ports: [{ PrivatePort: 5432, PublicPort: 5433, Type: "tcp" }],
    mounts: [["orders", "/var/lib/postgresql/data"]],
  });
  expect(made?.env).toContain("POSTGRES_PASSWORD=anchor = 1");
});

test("a container that does not start is told in Docker's words, and taken away again", async () => {
  const page = await openApp({ at: "images" });
  await page.getByRole("button", { name: "Run nginx:1.29" }).click();
  await page.getByLabel("Container name").fill("second-web");
  await page.getByRole("button", { name: "Add volume or folder" }).click();
  await page.getByLabel("Kind 1").selectOption("bind");
  await page.getByLabel("Folder of this computer 1").fill("/nowhere");
  await page.getByLabel("Path in the container 1").fill("/srv");
  await page.getByRole("button", { name: "Run", exact: true }).click();
  await page.getByText("bind source path does not exist: /nowhere").waitFor();
  await page.getByLabel("Folder of this computer 1").fill("/home/ada/shop");
  // Taken by a container that the list does not tell of.
  await page.evaluate(() => {
    const thief = [...window.fake.docker.containers.values()].find(({ name }) => name === "grafana");
    thief?.ports.push({ IP: "127.0.0.1", PrivatePort: 1, PublicPort: 9999, Type: "tcp" });
  });
  await page.getByLabel("Port of this computer 1").fill("9999");
  await page.getByRole("button", { name: "Run", exact: true }).click();
  await page.getByText("port is already allocated").waitFor();
  expect(await page.evaluate(() => [...window.fake.docker.containers.values()].some(({ name }) => name === "second-web"))).toBe(false);
  await page.getByLabel("Port of this computer 1").fill("9998");
  await page.getByRole("button", { name: "Run", exact: true }).click();
  await page.getByRole("heading", { name: "second-web" }).waitFor();
});

test("the clean-up removes what it said, and frees what it said", async () => {
  const page = await openApp({ at: "images" });
  await menu(page, "More for images", "Clean up…");
  await page.getByText("Frees 472 MiB").waitFor();
  await page.getByRole("radio", { name: /All unused images/ }).check();
  await page.getByText("Frees 1.22 GiB").waitFor();
  await page.getByRole("dialog").getByText("ghcr.io/harbour/tide-tables:2026.11").waitFor();
  await page.getByRole("button", { name: "Remove 6 images" }).click();
  await page.getByText("6 images removed, 1.22 GiB freed").waitFor();
  await row(page, "node:24-bookworm-slim").waitFor({ state: "detached" });
  expect(await page.getByRole("row").count()).toBe(7);
  await menu(page, "More for images", "Clean up…");
  await page.getByText("Nothing to remove: every image is in use or has a name.").waitFor();
  expect(await page.getByRole("dialog").getByRole("button", { name: /^Remove/ }).isDisabled()).toBe(true);
});

test("images are removed together; those that containers run on stay", async () => {
  const page = await openApp({ at: "images" });
  for (const name of ["node:24-bookworm-slim", "ghcr.io/harbour/tide-tables:2026.11", "redis:8"]) await page.getByRole("checkbox", { name: `Select ${name}` }).check();
  await page.getByText("3 selected").waitFor();
  await page.getByRole("button", { name: "Remove…" }).click();
  await page.getByText("redis:8 stays: harbour-shop-cache-1 runs on it.").waitFor();
  await page.getByText("This frees 773 MiB").waitFor();
  await page.getByRole("button", { name: "Remove 2 images" }).click();
  await page.getByText("Removed 2 images").waitFor();
  await row(page, "node:24-bookworm-slim").waitFor({ state: "detached" });
  expect(await tags(page)).toContain("redis:8");
});

test("one in use is not even asked about", async () => {
  const page = await openApp({ at: "images" });
  await menu(page, "More for redis:8", "Remove…");
  await page.getByText("redis:8 is in use").waitFor();
  expect(await page.getByRole("dialog").count()).toBe(0);
});

test("a tag is added, taken away and put back", async () => {
  const page = await openApp({ at: "images" });
  await openDetail(page, "redis:8", "Tags");
  await page.getByRole("tabpanel").getByRole("button", { name: "Add tag…" }).click();
  await page.getByLabel("Name and tag").fill("postgres:17");
  await page.getByText("postgres:17 leads to another image now").waitFor();
  await page.getByLabel("Name and tag").fill("Cache");
  await page.getByRole("button", { name: "Add tag", exact: true }).click();
  await page.getByText("Lower-case letters").waitFor();
  await page.getByLabel("Name and tag").fill("team/cache:1");
  await page.getByRole("button", { name: "Add tag", exact: true }).click();
  await page.getByRole("button", { name: "Remove tag team/cache:1" }).click();
  await page.getByText("Tag team/cache:1 removed").waitFor();
  expect(await tags(page)).not.toContain("team/cache:1");
  await page.getByRole("button", { name: "Put back" }).click();
  await page.getByRole("button", { name: "Remove tag team/cache:1" }).waitFor();
  expect(await tags(page)).toContain("team/cache:1");
});

test("images go to a file and come back from it", async () => {
  const page = await openApp({ at: "images" });
  await menu(page, "More for redis:8", "Save to file…");
  await page.getByText(/redis:8 saved/).waitFor();
  const saved = await page.evaluate(() => Object.keys(window.fake.desktop.saved));
  expect(saved).toEqual(["/home/ada/Downloads/redis_8.tar"]);
  await page.evaluate(() => {
    window.fake.files["/home/ada/redis.tar"] = window.fake.desktop.saved["/home/ada/Downloads/redis_8.tar"] as Uint8Array;
    window.fake.nextFile = "/home/ada/redis.tar";
  });
  await menu(page, "More for images", "Load from file…");
  await page.getByText("Loaded redis:8").waitFor();
  // The file that the dialog suggests is a note.
  await menu(page, "More for images", "Load from file…");
  await page.getByText("notes.txt was not loaded").waitFor();
  await page.getByText("open manifest.json: no such file or directory").waitFor();
  await page.getByRole("button", { name: "Dismiss: notes.txt was not loaded" }).click();
  await page.getByText("notes.txt was not loaded").waitFor({ state: "detached" });
});

test("a file system is imported under a name", async () => {
  const page = await openApp({ at: "images" });
  await menu(page, "More for redis:8", "Save to file…");
  await page.getByText(/redis:8 saved/).waitFor();
  // Any archive of files will do.
  await page.evaluate(() => {
    window.fake.files["/home/ada/system.tar"] = window.fake.desktop.saved["/home/ada/Downloads/redis_8.tar"] as Uint8Array;
    window.fake.nextFile = "/home/ada/system.tar";
  });
  await menu(page, "More for images", "Import file system…");
  await page.getByText("/home/ada/system.tar").waitFor();
  await page.getByLabel("Name and tag").fill("My System");
  await page.getByRole("button", { name: "Import", exact: true }).click();
  await page.getByText("Lower-case letters").waitFor();
  await expectAccessible(page);
  await picture(page, "images-import-light");
  await page.getByLabel("Name and tag").fill("my/system");
  await page.getByRole("button", { name: "Import", exact: true }).click();
  await row(page, "my/system:latest").waitFor();
  await page.getByRole("button", { name: "Show image" }).click();
  await page.getByRole("heading", { name: "my/system:latest" }).waitFor();
});

test("what is done elsewhere is seen here; an image that goes is said to be gone", async () => {
  const page = await openApp({ at: "images" });
  await openDetail(page, "node:24-bookworm-slim");
  await page.evaluate(() => {
    const { docker } = window.fake;
    const image = docker.image("node:24-bookworm-slim");
    docker.images.delete(image.id);
    docker.emit("image", "delete", image.id);
  });
  await page.getByText("This image is gone").waitFor();
  await page.getByRole("button", { name: "All images" }).click();
  await row(page, "redis:8").waitFor();
  expect(await row(page, "node:24-bookworm-slim").count()).toBe(0);
});

test("names with markup are text", async () => {
  const page = await openApp({ at: "images", fake: "hostile" });
  await page.getByRole("link", { name: "evil/<script>window.__pwned=1</script>:latest", exact: true }).click();
  await page.getByRole("heading", { name: "<script>" }).waitFor();
  await page.getByRole("tab", { name: "Configuration" }).click();
  await page.getByText("Working folder").waitFor();
  await expectAccessible(page);
  expect(await page.evaluate(() => "__pwned" in window)).toBe(false);
});

test("the palette pulls, cleans up and finds images", async () => {
  const page = await openApp({ at: "images" });
  await row(page, "redis:8").waitFor();
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox").fill("tide image");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "ghcr.io/harbour/tide-tables:2026.11" }).waitFor();
});
