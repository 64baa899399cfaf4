import { expect, test, vi } from "vitest";
import { BackendError } from "../backend/backend";
import { begin, jobs } from "./jobs.svelte";

test("a job that ends well is gone", async () => {
  let end = () => {};
  const job = begin({ page: "images", title: "t", failed: "f", run: () => new Promise<void>((resolve) => (end = resolve)) });
  expect(jobs.all).toContain(job);
  end();
  await vi.waitFor(() => expect(jobs.all).not.toContain(job));
});

test("one that fails stays, with why, and can be run again", async () => {
  let runs = 0;
  const job = begin({
    page: "volumes",
    title: "t",
    failed: "f",
    advance: { done: 0, total: 100, about: true },
    run: async (self) => {
      self.bytes(60);
      if (++runs === 1) throw new BackendError("engine", "no space left on device");
    },
  });
  await vi.waitFor(() => expect(job.current).toMatchObject({ state: "failed", error: { message: "no space left on device" } }));
  expect(job.share).toBe(0.6);
  expect(jobs.all).toContain(job);
  job.again();
  expect(job.current.state).toBe("running");
  await vi.waitFor(() => expect(jobs.all).not.toContain(job));
  expect(runs).toBe(2);
});

test("one that is cancelled is told so, and is no failure", async () => {
  let heard = false;
  const job = begin({
    page: "images",
    title: "t",
    failed: "f",
    run: (_, signal) =>
      new Promise((_resolve, reject) =>
        signal.addEventListener("abort", () => {
          heard = true;
          reject(new BackendError("cancelled", "Cancelled"));
        }),
      ),
  });
  job.cancel();
  await Promise.resolve();
  expect(heard).toBe(true);
  expect(jobs.all).not.toContain(job);
  expect(job.current.state).toBe("running");
});

test("more done than was thought is no more than all", () => {
  const job = begin({ page: "images", title: "t", failed: "f", advance: { done: 0, total: 10, about: true }, run: () => new Promise(() => {}) });
  job.bytes(12);
  expect(job.share).toBe(1);
  job.cancel();
});
