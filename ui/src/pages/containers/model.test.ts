import { describe, expect, test } from "vitest";
import type { ContainerState, ContainerSummary } from "../../api/types";
import { exitCodeOf, healthOf, passes, publishedPorts, rows, shortName, since, type Row } from "./model";

function container(name: string, changes: Partial<ContainerSummary> & { project?: string; service?: string } = {}): ContainerSummary {
  const { project, service, ...rest } = changes;
  const Labels: Record<string, string> = {};
  if (project !== undefined) Labels["com.docker.compose.project"] = project;
  if (service !== undefined) Labels["com.docker.compose.service"] = service;
  return {
    Id: `id-of-${name}-and-more`,
    Names: [`/${name}`],
    Image: "nginx:1.29",
    ImageID: "sha256:1",
    Command: "serve",
    Created: 1,
    Ports: [],
    Labels,
    State: "running",
    Status: "Up 2 hours",
    Mounts: [],
    ...rest,
  };
}

const shown = (list: Row[]) => list.map((row) => (row.kind === "project" ? `${row.name} ${row.running}/${row.containers.length}` : `${row.grouped ? "  " : ""}${row.container.Names[0]}`));
const view = { filter: "all" as const, search: "", folded: new Set<string>(), sort: { column: "name" as const, down: false } };

describe("rows", () => {
  const all = [
    container("zeta"),
    container("shop-web-10", { project: "shop", service: "web" }),
    container("shop-web-2", { project: "shop", service: "web", State: "exited", Status: "Exited (1) 3 minutes ago" }),
    container("alpha", { State: "exited", Status: "Exited (0) 2 days ago" }),
    container("blog-db-1", { project: "blog", service: "db" }),
  ];

  test("projects first, then the others, numbers in names in their order", () => {
    expect(shown(rows(all, view))).toEqual(["blog 1/1", "  /blog-db-1", "shop 1/2", "  /shop-web-2", "  /shop-web-10", "/alpha", "/zeta"]);
  });

  test("a folded project is one row", () => {
    expect(shown(rows(all, { ...view, folded: new Set(["shop"]) }))).toEqual(["blog 1/1", "  /blog-db-1", "shop 1/2", "/alpha", "/zeta"]);
  });

  test("filters and searches together; a project without a hit is not shown", () => {
    expect(shown(rows(all, { ...view, filter: "stopped" }))).toEqual(["shop 0/1", "  /shop-web-2", "/alpha"]);
    expect(shown(rows(all, { ...view, search: "SHOP 10" }))).toEqual(["shop 1/1", "  /shop-web-10"]);
  });

  test("by state, running first", () => {
    expect(shown(rows(all.slice(0, 1).concat(all[3] ?? []), { ...view, sort: { column: "status", down: false } }))).toEqual(["/zeta", "/alpha"]);
    expect(shown(rows(all.slice(0, 1).concat(all[3] ?? []), { ...view, sort: { column: "status", down: true } }))).toEqual(["/alpha", "/zeta"]);
  });
});

test("names below a project are short", () => {
  expect(shortName(container("shop-web-1", { project: "shop", service: "web" }))).toBe("web");
  expect(shortName(container("shop-web-2", { project: "shop", service: "web" }))).toBe("web-2");
  expect(shortName(container("own-name", { project: "shop", service: "web" }))).toBe("own-name");
});

test("a search finds ports, images and the start of an ID", () => {
  const one = container("web", { Ports: [{ IP: "0.0.0.0", PrivatePort: 80, PublicPort: 8080, Type: "tcp" }] });
  for (const search of ["8080", "nginx", "id-of-web"]) expect(passes(one, "all", search)).toBe(true);
  expect(passes(one, "all", "redis")).toBe(false);
});

test("published ports, each once, as addresses of this computer", () => {
  const ports = publishedPorts([
    { IP: "::", PrivatePort: 443, PublicPort: 8443, Type: "tcp" },
    { IP: "0.0.0.0", PrivatePort: 443, PublicPort: 8443, Type: "tcp" },
    { IP: "127.0.0.1", PrivatePort: 53, PublicPort: 53, Type: "udp" },
    { IP: "192.168.1.5", PrivatePort: 80, PublicPort: 80, Type: "tcp" },
    { PrivatePort: 9000, Type: "tcp" },
  ]);
  expect(ports).toEqual([
    { label: "53/udp", port: 53, url: null },
    { label: "80", port: 80, url: "http://192.168.1.5:80" },
    { label: "8443→443", port: 8443, url: "https://localhost:8443" },
  ]);
});

test("what Docker's words say", () => {
  const status = (Status: string, State: ContainerState = "running") => container("x", { Status, State });
  expect(healthOf(status("Up 2 hours (healthy)"))).toBe("healthy");
  expect(healthOf(status("Up 3 seconds (health: starting)"))).toBe("starting");
  expect(healthOf(status("Up 2 hours (Paused)"))).toBeNull();
  expect(exitCodeOf(status("Exited (137) 10 days ago"))).toBe(137);
  expect(exitCodeOf(status("Up 2 hours"))).toBe(0);
  expect(since(status("Up 2 hours (healthy)"), 10_000_000)).toBe(10_000_000 - 7_200_000);
  expect(since(status("Up About an hour"), 10_000_000)).toBe(10_000_000 - 3_600_000);
  expect(since(status("Exited (0) Less than a second ago"), 5000)).toBe(5000);
  expect(since(status("Created"), 5000)).toBeNull();
});
