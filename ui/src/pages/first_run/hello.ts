/** A first container: of an image that is here, or can be fetched. What it says is what it wrote, and nothing else. */
import * as containers from "../../api/containers";
import { call, at } from "../../api/engine";
import * as images from "../../api/images";
import { plain } from "../../api/ansi";
import { LogParser } from "../../api/log_stream";
import type { ImageSummary } from "../../api/types";
import { text } from "../../text";
import { advance, nothing, summary } from "../images/pull_progress";

/** Says hello by itself, and is a few kilobytes. */
const HELLO = "hello-world";
/** Known to have `echo`. Small ones first. */
const WITH_ECHO = ["busybox", "alpine", "debian", "ubuntu", "fedora", "nginx", "python", "node"];
/** A container that says one sentence and has not ended by then, does not. */
const LIMIT_MS = 60_000;
/** Of what it says, this many lines are shown. */
const LINES = 40;

export type Hello =
  | { state: "looking" }
  | { state: "pulling"; image: string; share: number | null }
  | { state: "creating" | "listening"; image: string }
  | { state: "said"; image: string; words: string[] }
  /** No image is here, and none could be fetched. */
  | { state: "noImage"; image: string; error: string }
  | { state: "failed"; image: string; error: string; words: string[] };

export interface Choice {
  image: string;
  /** What is run in it; null for what the image itself does. */
  command: string[] | null;
}

const echo = ["echo", text.firstRun.machine.words];
const tags = (image: ImageSummary) => (image.RepoTags ?? []).filter((tag) => !tag.startsWith("<none>"));
/** `busybox` of `busybox:1.37` and `registry.example/library/busybox:latest`. */
const nameOf = (tag: string) => (tag.split("/").at(-1) ?? "").split(/[:@]/)[0] ?? "";

/** The image to greet with, of those that are here and known to be able to. */
export function choose(all: readonly ImageSummary[]): Choice | null {
  const present = all.flatMap(tags);
  const hello = present.find((tag) => nameOf(tag) === HELLO);
  if (hello !== undefined) return { image: hello, command: null };
  for (const name of WITH_ECHO) {
    const image = present.find((tag) => nameOf(tag) === name);
    if (image !== undefined) return { image, command: echo };
  }
  return null;
}

/** Any image that is here, the smallest first: most have `echo`. */
export function lastResort(all: readonly ImageSummary[]): Choice | null {
  const smallest = all.filter((image) => tags(image).length > 0).sort((a, b) => a.Size - b.Size)[0];
  const image = smallest && tags(smallest)[0];
  return image === undefined ? null : { image, command: echo };
}

const wordsOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/** Runs it to its end, telling what is being done. Never rejects. */
export async function hello(tell: (state: Hello) => void, signal: AbortSignal): Promise<void> {
  let image = HELLO;
  const told = (state: Hello) => signal.aborted || tell(state);
  try {
    told({ state: "looking" });
    const all = await images.list();
    let choice = choose(all);
    if (!choice) {
      const failure = await pull(told, signal);
      choice = failure === null ? { image: `${HELLO}:latest`, command: null } : lastResort(all);
      if (!choice) return void told({ state: "noImage", image: HELLO, error: failure ?? "" });
    }
    image = choice.image;
    await run(choice, told, signal);
  } catch (error) {
    told({ state: "failed", image, error: wordsOf(error), words: [] });
  }
}

/** Why it could not be fetched, or null. */
async function pull(told: (state: Hello) => void, signal: AbortSignal): Promise<string | null> {
  let progress = nothing;
  told({ state: "pulling", image: HELLO, share: null });
  try {
    await images.pull(HELLO, "latest", (step) => {
      progress = advance(progress, step);
      told({ state: "pulling", image: HELLO, share: summary(progress).share });
    }, signal);
    return null;
  } catch (error) {
    return wordsOf(error);
  }
}

async function run({ image, command }: Choice, told: (state: Hello) => void, signal: AbortSignal): Promise<void> {
  told({ state: "creating", image });
  const { Id } = await containers.create("", { Image: image, ...(command && { Entrypoint: [], Cmd: command }) });
  try {
    await containers.start(Id);
    told({ state: "listening", image });
    const code = await ended(Id, signal);
    const log = await call("GET", at`/containers/${Id}/logs`, { query: { stdout: true, stderr: true, tail: LINES } });
    const parser = new LogParser(false, false);
    const words = [...parser.push(log.body), ...parser.finish()].map((line) => plain(line.text));
    while (words[0]?.trim() === "") words.shift();
    while (words.at(-1)?.trim() === "") words.pop();
    if (code === 0) told({ state: "said", image, words });
    else told({ state: "failed", image, error: text.firstRun.machine.exit(code), words });
  } finally {
    // One that stays is in the list of containers, where it can be removed.
    await containers.remove(Id, { force: true, volumes: true }).catch(() => undefined);
  }
}

/** Waits for its end. Resolves with its exit code. */
async function ended(id: string, signal: AbortSignal): Promise<number> {
  const limit = new AbortController();
  const stop = () => limit.abort();
  const timer = setTimeout(stop, LIMIT_MS);
  signal.addEventListener("abort", stop);
  try {
    const answer = await call("POST", at`/containers/${id}/wait`, { signal: limit.signal });
    return (JSON.parse(new TextDecoder().decode(answer.body)) as { StatusCode: number }).StatusCode;
  } catch (error) {
    if (limit.signal.aborted && !signal.aborted) throw new Error(text.firstRun.machine.endless(LIMIT_MS / 1000), { cause: error });
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}
