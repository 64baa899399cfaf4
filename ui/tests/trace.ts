/** What the page's main thread does, from Chromium's own trace. */
import type { Page } from "playwright-core";

interface TraceEvent {
  name: string;
  ph: string;
  tid: number;
  /** Processor time of the thread, and time that passed, in microseconds. */
  tdur?: number;
  dur?: number;
  args?: { name?: string };
}

/**
 * Tasks of the page's main thread while `run` runs, in milliseconds of processor time: script, style, layout and paint. What else
 * the machine does at the time makes them take longer, but does not count.
 */
export async function tasksDuring<T>(page: Page, run: () => Promise<T>): Promise<{ tasks: number[]; result: T }> {
  const session = await page.context().newCDPSession(page);
  const events: TraceEvent[] = [];
  session.on("Tracing.dataCollected", ({ value }) => events.push(...(value as unknown as TraceEvent[])));
  await session.send("Tracing.start", { traceConfig: { includedCategories: ["toplevel", "devtools.timeline", "__metadata"] } });
  const result = await run();
  const done = new Promise((resolve) => session.once("Tracing.tracingComplete", resolve));
  await session.send("Tracing.end");
  await done;
  await session.detach();
  const main = events.find(({ name, args }) => name === "thread_name" && args?.name === "CrRendererMain")?.tid;
  const tasks = events.filter(({ name, tid, ph, tdur }) => tid === main && ph === "X" && tdur !== undefined && /RunTask$/.test(name)).map(({ tdur = 0 }) => tdur / 1000);
  return { tasks: tasks.sort((a, b) => a - b), result };
}

export const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
/** The value that this share of sorted values stays below. */
export const part = (values: number[], share: number) => values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0;
