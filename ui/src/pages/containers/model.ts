/** What the list of containers shows, and in which order: pure, so that it can be tested without a page. */
import { harmless } from "../../api/ansi";
import type { ContainerSummary, Port } from "../../api/types";

export type Filter = "all" | "running" | "stopped";

export interface ProjectRow {
  kind: "project";
  name: string;
  containers: ContainerSummary[];
  running: number;
}

export interface ContainerRow {
  kind: "container";
  container: ContainerSummary;
  /** Stands below its project's row. */
  grouped: boolean;
}

export type Row = ProjectRow | ContainerRow;

const PROJECT = "com.docker.compose.project";
const SERVICE = "com.docker.compose.service";

/** Its name as people say it; what a terminal or a browser would obey in it is shown instead. */
export const nameOf = (container: ContainerSummary): string => harmless(container.Names[0]?.replace(/^\//, "") ?? container.Id.slice(0, 12));

export const projectOf = (container: ContainerSummary): string | null => container.Labels[PROJECT] ?? null;

/** Below its project a container is called by its service, and its number if there are several. */
export function shortName(container: ContainerSummary): string {
  const name = nameOf(container);
  const project = projectOf(container);
  const service = container.Labels[SERVICE];
  if (project === null || service === undefined || !name.startsWith(`${project}-`)) return name;
  return name === `${project}-${service}-1` ? service : name.slice(project.length + 1);
}

export const isUp = (container: ContainerSummary): boolean =>
  container.State === "running" || container.State === "paused" || container.State === "restarting";

export function passes(container: ContainerSummary, filter: Filter, search: string): boolean {
  if (filter === "running" && !isUp(container)) return false;
  if (filter === "stopped" && isUp(container)) return false;
  if (search === "") return true;
  const all = [
    nameOf(container),
    container.Image,
    projectOf(container) ?? "",
    container.Id.slice(0, 12),
    container.State,
    ...container.Ports.map((port) => `${port.PublicPort ?? ""} ${port.PrivatePort}`),
  ]
    .join("\n")
    .toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

export type SortColumn = "name" | "status";

const byName = new Intl.Collator("en", { numeric: true }).compare;
const ORDER = { running: 0, restarting: 1, paused: 2, removing: 3, dead: 4, exited: 5, created: 6 } as const;

/** Rows in order: projects first, each with its containers unless it is folded, then what belongs to none. */
export function rows(
  containers: readonly ContainerSummary[],
  { filter, search, folded, sort }: { filter: Filter; search: string; folded: ReadonlySet<string>; sort: { column: SortColumn; down: boolean } },
): Row[] {
  const shown = containers.filter((container) => passes(container, filter, search));
  const sign = sort.down ? -1 : 1;
  const named = new Map(shown.map((container) => [container, nameOf(container)]));
  const compare = (a: ContainerSummary, b: ContainerSummary) => {
    const state = sort.column === "status" ? ORDER[a.State] - ORDER[b.State] || b.Created - a.Created : 0;
    return sign * (state || byName(named.get(a) ?? "", named.get(b) ?? ""));
  };
  const projects = new Map<string, ContainerSummary[]>();
  const alone: ContainerSummary[] = [];
  for (const container of shown) {
    const project = projectOf(container);
    if (project === null) alone.push(container);
    else {
      const members = projects.get(project);
      if (members) members.push(container);
      else projects.set(project, [container]);
    }
  }
  const out: Row[] = [];
  for (const [name, members] of [...projects].sort((a, b) => sign * byName(a[0], b[0]))) {
    out.push({ kind: "project", name, containers: members, running: members.filter((member) => member.State === "running").length });
    if (!folded.has(name)) out.push(...members.sort(compare).map((container): Row => ({ kind: "container", container, grouped: true })));
  }
  out.push(...alone.sort(compare).map((container): Row => ({ kind: "container", container, grouped: false })));
  return out;
}

export interface PublishedPort {
  /** As shown: `8080`, `8080→80`, `53/udp`. */
  label: string;
  port: number;
  /** Where a browser would find it; null for what no browser speaks. */
  url: string | null;
}

/** Published ports, each once though Docker tells IPv4 and IPv6 apart. */
export function publishedPorts(ports: readonly Port[]): PublishedPort[] {
  const seen = new Map<string, PublishedPort>();
  for (const { IP, PrivatePort, PublicPort, Type } of ports) {
    if (PublicPort === undefined) continue;
    const label = `${PublicPort === PrivatePort ? PublicPort : `${PublicPort}→${PrivatePort}`}${Type === "tcp" ? "" : `/${Type}`}`;
    const scheme = PrivatePort === 443 || PrivatePort === 8443 ? "https" : "http";
    const anywhere = IP === undefined || IP === "" || IP === "0.0.0.0" || IP === "::" || IP === "127.0.0.1" || IP === "::1";
    const host = anywhere ? "localhost" : IP.includes(":") ? `[${IP}]` : IP;
    if (!seen.has(label)) seen.set(label, { label, port: PublicPort, url: Type === "tcp" ? `${scheme}://${host}:${PublicPort}` : null });
  }
  return [...seen.values()].sort((a, b) => a.port - b.port);
}

export type Health = "healthy" | "unhealthy" | "starting";

/** Docker's list has the health only in its words: `Up 2 hours (healthy)`. */
export function healthOf(container: ContainerSummary): Health | null {
  const found = /\((?:health: )?(healthy|unhealthy|starting)\)$/.exec(container.Status);
  return (found?.[1] as Health | undefined) ?? null;
}

export const exitCodeOf = (container: ContainerSummary): number => Number(/^(?:Exited|Restarting) \((\d+)\)/.exec(container.Status)?.[1] ?? 0);

const SPANS: [pattern: RegExp, ms: number][] = [
  [/second/, 1000],
  [/minute/, 60_000],
  [/hour/, 3_600_000],
  [/day/, 86_400_000],
  [/week/, 7 * 86_400_000],
  [/month/, 30 * 86_400_000],
  [/year/, 365 * 86_400_000],
];

/** When it began to be as it is, from Docker's words at the time they were said; null if they do not tell. */
export function since(container: ContainerSummary, saidAt: number): number | null {
  const words = container.Status.replace(/\s*\((?:health: )?\w+\)$/, "");
  const unit = SPANS.find(([pattern]) => pattern.test(words));
  if (!unit) return null;
  const number = /Less than/.test(words) ? 0 : Number(/(\d+) (?:second|minute|hour|day|week|month|year)/.exec(words)?.[1] ?? 1);
  return saidAt - number * unit[1];
}
