/** A thousand containers: how soon they are seen, and how smoothly they move. */
import { expect, test } from "vitest";
import { openApp, picture } from "./browser";

const FIRST_PAINT_MS = 200;
const FRAME_MS = 1000 / 60;

test("1,000 containers are painted within 200 ms", async () => {
  const page = await openApp({ fake: "many", at: "nowhere" });
  await page.getByText("There is no such page").waitFor();
  await page.evaluate(() => new Promise((resolve) => requestIdleCallback(resolve)));
  const times: number[] = [];
  for (let round = 0; round < 5; round++) {
    const took = await page.evaluate(
      () =>
        new Promise<number>((resolve) => {
          const before = performance.now();
          const observer = new MutationObserver(() => {
            if (document.querySelectorAll("[role=row]").length < 10) return;
            observer.disconnect();
            // The next frame is on the screen when a task follows it.
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - before), 0));
          });
          observer.observe(document.body, { childList: true, subtree: true });
          location.hash = "#/containers";
        }),
    );
    times.push(took);
    await page.evaluate(() => (location.hash = "#/nowhere"));
    await page.getByText("There is no such page").waitFor();
  }
  console.log(`1,000 containers, from the click to the painted list: ${times.map((time) => time.toFixed(0)).join(", ")} ms`);
  expect(times[0]).toBeLessThan(FIRST_PAINT_MS);
  expect(Math.max(...times)).toBeLessThan(FIRST_PAINT_MS);
});

test("1,000 containers scroll at 60 frames a second", async () => {
  const page = await openApp({ fake: "many" });
  await page.getByRole("link", { name: "service-0000" }).waitFor();
  await picture(page, "containers-many-light");
  const table = page.getByRole("table", { name: "Containers" });
  const session = await page.context().newCDPSession(page);
  const events: { name: string; dur?: number; cat: string; tid: number; ph: string; args?: { name?: string } }[] = [];
  session.on("Tracing.dataCollected", ({ value }) => events.push(...(value as unknown as typeof events)));
  await session.send("Tracing.start", { traceConfig: { includedCategories: ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline.frame"] } });
  const frames = await table.evaluate(async (scroller) => {
    const moments: number[] = [];
    // A quick hand: 40 rows a second, over two seconds, there and back.
    for (let frame = 0; frame < 240; frame++) {
      scroller.scrollTop += frame < 120 ? 31 : -31;
      moments.push(await new Promise<number>((resolve) => requestAnimationFrame(resolve)));
    }
    return moments;
  });
  const done = new Promise((resolve) => session.once("Tracing.tracingComplete", resolve));
  await session.send("Tracing.end");
  await done;

  const main = events.find(({ name, args }) => name === "thread_name" && args?.name === "CrRendererMain")?.tid;
  const work = events.filter(({ name, tid, ph, dur }) => tid === main && ph === "X" && dur !== undefined && /RunTask$/.test(name)).map(({ dur = 0 }) => dur / 1000);
  const sorted = (values: number[]) => [...values].sort((a, b) => a - b);
  const intervals = sorted(frames.slice(1).map((moment, index) => moment - (frames[index] ?? moment)));
  const part = (values: number[], share: number) => values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0;
  const tasks = sorted(work);
  const long = tasks.filter((task) => task > FRAME_MS).length;
  const second = ((frames.at(-1) ?? 0) - (frames[0] ?? 0)) / 1000;
  console.log(
    `scroll of 1,000 containers: ${(frames.length / second).toFixed(1)} frames a second, interval ${part(intervals, 0.5).toFixed(1)} ms (99 %: ${part(intervals, 0.99).toFixed(1)} ms); ` +
      `${tasks.length} tasks of the main thread, 99 % within ${part(tasks, 0.99).toFixed(1)} ms, longest ${(tasks.at(-1) ?? 0).toFixed(1)} ms, ${long} longer than a frame`,
  );
  expect(tasks.length).toBeGreaterThan(100);
  expect(await table.getByRole("row").count()).toBeLessThan(50);
  // The work of a frame fits into a frame; what else this machine does is not ours.
  expect(part(tasks, 0.99)).toBeLessThan(FRAME_MS);
  expect(long / frames.length).toBeLessThan(0.02);
});
