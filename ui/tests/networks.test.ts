/** Networks: the list, who is on one, and what is created, connected and removed. */
import { describe, expect, test } from "vitest";
import type { Page } from "playwright-core";
import { expectAccessible, openApp, picture } from "./browser";

const row = (page: Page, name: string) => page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) });
const open = async (page: Page, name: string) => {
  await page.getByRole("link", { name, exact: true }).click();
  await page.getByRole("heading", { level: 2, name }).waitFor();
};
const networks = (page: Page) => page.evaluate(() => [...window.fake.docker.networks.values()].map(({ Name }) => Name));

describe.each(["light", "dark"] as const)("pictures, %s", (theme) => {
  test("the list", async () => {
    const page = await openApp({ at: "networks", theme });
    await row(page, "harbour-shop_default").getByText("4 of 5 running").waitFor();
    await row(page, "bridge").getByText("predefined").waitFor();
    await expectAccessible(page);
    await picture(page, `networks-${theme}`);
  });

  test("who is on one", async () => {
    const page = await openApp({ at: "networks", theme });
    await open(page, "harbour-shop_default");
    await row(page, "harbour-shop-web-1").getByText("172.20.0.2").waitFor();
    await expectAccessible(page);
    await picture(page, `network-${theme}`);
  });

  test("one without a way out", async () => {
    const page = await openApp({ at: "networks", theme });
    await open(page, "harbour-shop_backend");
    await page.getByText("No way out").waitFor();
    await row(page, "harbour-shop-db-1").getByText("172.24.0").waitFor();
    await expectAccessible(page);
    await picture(page, `network-internal-${theme}`);
  });

  test("one that nobody is on, and all about it", async () => {
    const page = await openApp({ at: "networks", theme });
    await open(page, "boatyard");
    await page.getByText("Nobody is on this network").waitFor();
    await page.getByText("docker run --rm -d --network boatyard nginx").waitFor();
    await expectAccessible(page);
    await picture(page, `network-empty-${theme}`);
    await page.getByRole("tab", { name: "Inspect" }).click();
    await page.getByText("eth0.44").waitFor();
    await expectAccessible(page);
    await picture(page, `network-inspect-${theme}`);
    await page.getByRole("button", { name: "JSON", exact: true }).click();
    await page.getByRole("region", { name: "JSON" }).getByText('"Driver": "macvlan"').waitFor();
    await expectAccessible(page);
  });

  test("the form, with what is wrong with it", async () => {
    const page = await openApp({ at: "networks", theme });
    await page.getByRole("button", { name: "Create network…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Subnet", { exact: true }).fill("172.20.9.0/24");
    await dialog.getByLabel("IPv6 too").check();
    await dialog.getByRole("button", { name: "Create network" }).click();
    await dialog.getByText("A network needs a name.").waitFor();
    await dialog.getByText("172.20.9.0/24 overlaps harbour-shop_default, 172.20.0.0/16.").waitFor();
    await expect.poll(() => dialog.getByLabel("Name").evaluate((input) => input === document.activeElement)).toBe(true);
    await expectAccessible(page);
    await picture(page, `network-create-${theme}`);
  });

  test("connecting a container", async () => {
    const page = await openApp({ at: "networks", theme });
    await open(page, "six");
    await page.getByRole("button", { name: "Connect container…" }).first().click();
    await page.getByRole("dialog").getByText("grafana", { exact: true }).waitFor();
    await expectAccessible(page);
    await picture(page, `network-connect-${theme}`);
  });

  test("the machine is stopped", async () => {
    const page = await openApp({ fake: "stopped", at: "networks", theme });
    await page.getByRole("heading", { name: "The machine is stopped" }).waitFor();
    await expectAccessible(page);
    await picture(page, `networks-stopped-${theme}`);
  });
});

test("the list is searched, filtered, and says where there is none of one's own", async () => {
  const page = await openApp({ at: "networks" });
  await row(page, "six").waitFor();
  await page.getByRole("searchbox", { name: "Search networks" }).fill("macvlan");
  await row(page, "six").waitFor({ state: "detached" });
  await row(page, "boatyard").waitFor();
  await page.getByRole("searchbox", { name: "Search networks" }).fill("nothing such");
  await page.getByRole("button", { name: "Show all" }).click();
  await page.getByRole("button", { name: /^Unused/ }).click();
  await row(page, "bridge").waitFor({ state: "detached" });
  expect(await page.getByRole("row").count()).toBe(3);

  const empty = await openApp({ fake: "empty", at: "networks" });
  await row(empty, "field-notes_default").waitFor();
  await empty.evaluate(() => {
    const { docker } = window.fake;
    for (const network of [...docker.networks.values()].filter(({ Name }) => Name.endsWith("_default"))) {
      docker.networks.delete(network.Id);
      docker.emit("network", "destroy", network.Id, { name: network.Name });
    }
  });
  await empty.getByText("There are no networks of yours yet.").waitFor();
  await picture(empty, "networks-none");
});

test("one is created as it was asked for, and shown", async () => {
  const page = await openApp({ at: "networks" });
  await page.getByRole("button", { name: "Create network…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill("lagoon");
  await dialog.getByLabel("Subnet", { exact: true }).fill("10.7.0.0/24");
  await dialog.getByLabel("Gateway", { exact: true }).fill("10.7.0.254");
  await dialog.getByRole("checkbox", { name: /^Internal/ }).check();
  expect(await dialog.getByLabel("Gateway", { exact: true }).isDisabled()).toBe(true);
  await dialog.getByRole("checkbox", { name: /^Internal/ }).uncheck();
  await dialog.getByLabel("Labels").fill("team=harbour");
  await dialog.getByRole("button", { name: "Create network" }).click();
  await page.getByText("Created lagoon").waitFor();
  await page.getByRole("heading", { level: 2, name: "lagoon" }).waitFor();
  const made = await page.evaluate(() => [...window.fake.docker.networks.values()].find(({ Name }) => Name === "lagoon"));
  expect(made).toMatchObject({ Driver: "bridge", IPAM: { Config: [{ Subnet: "10.7.0.0/24", Gateway: "10.7.0.254" }] }, Labels: { team: "harbour" } });
});

test("what Docker refuses is told in its own words, and the form stays", async () => {
  const page = await openApp({ at: "networks" });
  await page.getByRole("button", { name: "Create network…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill("lagoon");
  await dialog.getByRole("button", { name: "macvlan" }).click();
  // Another link's network may have it; this engine says no.
  await dialog.getByLabel("Subnet", { exact: true }).fill("10.44.0.0/24");
  await dialog.getByRole("button", { name: "Create network" }).click();
  await page.getByText("Pool overlaps with other one on this address space").waitFor();
  expect(await dialog.getByLabel("Name").inputValue()).toBe("lagoon");
});

test("a container is connected, disconnected, and connected again from the message", async () => {
  const page = await openApp({ at: "networks" });
  await open(page, "six");
  await page.getByRole("button", { name: "Connect container…" }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: "Connect", exact: true }).click();
  await dialog.getByText("Choose a container.").waitFor();
  await dialog.getByRole("searchbox").fill("grafana");
  await dialog.getByRole("radio").check();
  await dialog.getByLabel("Address").fill("172.99.0.1");
  await dialog.getByRole("button", { name: "Connect", exact: true }).click();
  await dialog.getByText("172.99.0.1 is not in 172.25.0.0/16, fd00:c0:ac1e::/64.").waitFor();
  await dialog.getByLabel("Address").fill("172.25.9.9");
  await dialog.getByRole("button", { name: "Connect", exact: true }).click();
  await row(page, "grafana").getByText("172.25.9.9").waitFor();
  await row(page, "grafana").getByText("fd00:c0:ac1e::9").waitFor();
  // It is drawn, too, with a way to it.
  await page.locator(".picture .boat.up", { hasText: "grafana" }).waitFor();
  await page.getByRole("button", { name: "Disconnect grafana" }).click();
  await page.getByText("Nobody is on this network").waitFor();
  await page.getByRole("button", { name: "Connect again" }).click();
  await row(page, "grafana").waitFor();
});

test("a published port and a container are reached from the picture", async () => {
  const page = await openApp({ at: "networks" });
  await open(page, "harbour-shop_default");
  await page.locator(".picture .flag", { hasText: "8080→80" }).click();
  expect(await page.evaluate(() => window.fake.desktop.opened)).toEqual(["http://localhost:8080"]);
  await page.locator(".picture .boat", { hasText: "harbour-shop-db-1" }).click();
  await page.getByRole("heading", { level: 2, name: "harbour-shop-db-1" }).waitFor();
});

test("the picture follows what happens", async () => {
  const page = await openApp({ at: "networks" });
  await open(page, "harbour-shop_default");
  await row(page, "harbour-shop-worker-1").getByText("not running").waitFor();
  await page.evaluate(() => {
    const worker = [...window.fake.docker.containers.values()].find(({ name }) => name === "harbour-shop-worker-1");
    if (worker) window.fake.docker.start(worker);
  });
  await page.locator(".picture .boat.up", { hasText: "harbour-shop-worker-1" }).waitFor();
});

test("one with running containers is removed only once they are disconnected", async () => {
  const page = await openApp({ at: "networks" });
  await page.getByRole("button", { name: "Remove harbour-shop_default" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("The network harbour-shop_default, 172.20.0.0/16, with its options and labels").waitFor();
  await dialog.getByText("harbour-shop-worker-1: stopped and set to use it; will not start again without it").waitFor();
  await picture(page, "network-remove");
  await dialog.getByRole("button", { name: "Remove network" }).click();
  await page.getByText(/error while removing network: network harbour-shop_default has active endpoints/).waitFor();
  expect(await networks(page)).toContain("harbour-shop_default");

  await page.getByRole("button", { name: "Remove harbour-shop_default" }).click();
  await dialog.getByLabel("Disconnect its 4 running containers first").check();
  await dialog.getByRole("button", { name: "Remove network" }).click();
  await row(page, "harbour-shop_default").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Create it again" }).click();
  await row(page, "harbour-shop_default").getByText("172.20.0.0/16").waitFor();
  await row(page, "harbour-shop_default").getByText("harbour-shop-api-1, harbour-shop-cache-1, harbour-shop-db-1, harbour-shop-web-1").waitFor();
});

test("unused ones are named before they are removed", async () => {
  const page = await openApp({ at: "networks" });
  await page.getByRole("button", { name: "Remove unused…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("boatyard, 10.44.0.0/24").waitFor();
  await dialog.getByText("six, 172.25.0.0/16 and fd00:c0:ac1e::/64").waitFor();
  await expectAccessible(page);
  await picture(page, "networks-prune");
  await dialog.getByRole("button", { name: "Remove 2 networks" }).click();
  await page.getByText("Removed 2 networks: boatyard, six").waitFor();
  // The list follows the engine's events, which come a moment later.
  await expect.poll(() => networks(page), { timeout: 10_000 }).not.toContain("six");
  await expect.poll(() => page.getByRole("button", { name: "Remove unused…" }).isDisabled(), { timeout: 10_000 }).toBe(true);
});

test("predefined ones have no button that removes them, and one that is gone says so", async () => {
  const page = await openApp({ at: "networks" });
  await row(page, "host").waitFor();
  expect(await page.getByRole("button", { name: "Remove host" }).count()).toBe(0);
  await open(page, "host");
  await page.getByText("Containers here use the machine’s own network").waitFor();
  await expectAccessible(page);
  await picture(page, "network-host");
  const gone = await openApp({ at: "networks/0123456789ab" });
  await gone.getByText("This network is gone").waitFor();
  await gone.getByRole("button", { name: "All networks" }).click();
  await row(gone, "bridge").waitFor();
});

test("markup in names is text", async () => {
  const page = await openApp({ fake: "hostile", at: "networks" });
  await open(page, "bridge");
  await page.locator(".picture .boat").first().waitFor();
  expect(await page.evaluate(() => (window as unknown as { __pwned?: number }).__pwned)).toBeUndefined();
  await expectAccessible(page);
  await picture(page, "network-hostile");
});

test("a thousand containers are told, and as many drawn as can be told apart", async () => {
  const page = await openApp({ fake: "many", at: "networks" });
  await open(page, "bridge");
  await page.getByText("990 more below").waitFor();
  expect(await page.locator(".picture .boat").count()).toBe(10);
  await picture(page, "network-many");
});
