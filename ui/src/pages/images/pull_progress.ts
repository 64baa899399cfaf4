/** What Docker tells during a pull, a line for each step of each layer, to what people want to know: how far it is. */
import type { Progress } from "../../api/engine";

export type LayerState = "waiting" | "downloading" | "verifying" | "downloaded" | "extracting" | "done" | "present";

export interface PullLayer {
  id: string;
  state: LayerState;
  /** Bytes of what is being done now. */
  current: number;
  /** Null until Docker told. */
  total: number | null;
  /** Bytes to download; known from the first line that says so. */
  size: number | null;
}

export interface PullProgress {
  layers: PullLayer[];
  /** Docker's last words that are about no layer: `Status: Downloaded newer image for nginx:1.29`. */
  status: string;
  /** The digest that the tag led to. */
  digest: string | null;
  /** It was here already, as new as the registry's. */
  upToDate: boolean;
}

export const nothing: PullProgress = { layers: [], status: "", digest: null, upToDate: false };

const STATES: Record<string, LayerState> = {
  "Pulling fs layer": "waiting",
  Waiting: "waiting",
  Downloading: "downloading",
  "Verifying Checksum": "verifying",
  "Download complete": "downloaded",
  Extracting: "extracting",
  "Pull complete": "done",
  "Already exists": "present",
};

/** After one more line. */
export function advance(before: PullProgress, step: Progress): PullProgress {
  const status = step.status ?? "";
  const state = STATES[status] ?? (status.startsWith("Retrying in") ? "waiting" : undefined);
  if (step.id === undefined || state === undefined) {
    return {
      ...before,
      status,
      digest: /^Digest: (\S+)/.exec(status)?.[1] ?? before.digest,
      upToDate: before.upToDate || status.startsWith("Status: Image is up to date"),
    };
  }
  const { current = 0, total } = step.progressDetail ?? {};
  const index = before.layers.findIndex((layer) => layer.id === step.id);
  const known = before.layers[index];
  const layer: PullLayer = {
    id: step.id,
    state,
    current,
    total: total !== undefined && total > 0 ? total : null,
    size: state === "downloading" && total !== undefined && total > 0 ? total : (known?.size ?? null),
  };
  const layers = [...before.layers];
  if (index < 0) layers.push(layer);
  else layers[index] = layer;
  return { ...before, layers };
}

/** Bytes of a layer that are here. */
function fetched({ state, current, size }: PullLayer): number {
  if (size === null) return 0;
  return state === "waiting" ? 0 : state === "downloading" ? Math.min(current, size) : size;
}

export interface Summary {
  /** Layers that are ready, of all. */
  done: number;
  all: number;
  /** Bytes over the network; `total` is null while a layer has not told its size. */
  fetched: number;
  total: number | null;
  /** 0 to 1 of all the work; null while nothing is known. Unpacking counts as the last fifth of each layer. */
  share: number | null;
}

const UNPACKING = 0.2;

function worked(layer: PullLayer): number {
  switch (layer.state) {
    case "waiting":
      return 0;
    case "downloading":
      return layer.total === null ? 0 : (1 - UNPACKING) * Math.min(1, layer.current / layer.total);
    case "verifying":
    case "downloaded":
      return 1 - UNPACKING;
    case "extracting":
      return 1 - UNPACKING + UNPACKING * (layer.total === null ? 0 : Math.min(1, layer.current / layer.total));
    case "done":
    case "present":
      return 1;
  }
}

export function summary({ layers }: PullProgress): Summary {
  const fresh = layers.filter((layer) => layer.state !== "present");
  const sized = fresh.every((layer) => layer.size !== null || layer.state === "done");
  const weight = (layer: PullLayer) => layer.size ?? 1_000_000;
  const all = fresh.reduce((sum, layer) => sum + weight(layer), 0);
  return {
    done: layers.filter(({ state }) => state === "done" || state === "present").length,
    all: layers.length,
    fetched: fresh.reduce((sum, layer) => sum + fetched(layer), 0),
    total: fresh.length > 0 && sized ? fresh.reduce((sum, layer) => sum + (layer.size ?? 0), 0) : null,
    share: layers.length === 0 ? null : all === 0 ? 1 : fresh.reduce((sum, layer) => sum + worked(layer) * weight(layer), 0) / all,
  };
}

/** Why a pull failed, as far as it changes what to do next. */
export function cause(message: string): "network" | "denied" | "other" {
  if (/connection reset|connection refused|i\/o timeout|timed? ?out|no such host|name resolution|network is unreachable|no route to host|unexpected EOF|TLS handshake|broken pipe|dns|error sending request|connection closed|lookup /i.test(message)) return "network";
  if (/denied|unauthorized|authentication required|may require 'docker login'|no basic auth/i.test(message)) return "denied";
  return "other";
}
