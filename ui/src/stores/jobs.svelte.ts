/** What takes a while and goes on when the user looks elsewhere: pulls, saves, loads, backups. */
import { BackendError } from "../backend/backend";
import { route } from "./route.svelte";
import { toasts } from "./toasts.svelte";

export type JobState = { state: "running" } | { state: "failed"; error: BackendError };

/** How far a job is. */
export interface Advance {
  done: number;
  /** Null where it is not known. */
  total: number | null;
  /** The total is an estimate. */
  about?: boolean;
}

interface Work {
  /** The page that shows it. */
  page: "images" | "volumes";
  title: string;
  /** What the title says when it failed. */
  failed: string;
  advance?: Advance;
  /** Rejects when it fails; a cancelled one is just gone. */
  run: (job: Job, signal: AbortSignal) => Promise<void>;
}

let next = 1;

export class Job {
  readonly id = next++;
  current: JobState = $state.raw({ state: "running" });
  advance: Advance = $state.raw({ done: 0, total: null });
  #abort = new AbortController();

  constructor(readonly work: Work) {
    if (work.advance) this.advance = work.advance;
  }

  /** The share that is done, or null where that is not known. */
  get share(): number | null {
    const { done, total } = this.advance;
    return total === null || total === 0 ? null : Math.min(1, done / total);
  }

  bytes = (done: number): void => {
    this.advance = { ...this.advance, done };
  };

  /** Resolves when it ended well, failed or was cancelled. */
  async start(): Promise<void> {
    const abort = (this.#abort = new AbortController());
    this.current = { state: "running" };
    try {
      await this.work.run(this, abort.signal);
      jobs.forget(this);
    } catch (error) {
      if (abort.signal.aborted || (error instanceof BackendError && error.kind === "cancelled")) jobs.forget(this);
      else {
        this.current = { state: "failed", error: error instanceof BackendError ? error : new BackendError("engine", String(error)) };
        // Its page shows it; who looks at another one is told.
        if (route.page !== this.work.page) toasts.failed(this.work.failed, error);
      }
    }
  }

  cancel(): void {
    this.#abort.abort();
    jobs.forget(this);
  }

  again(): void {
    this.advance = this.work.advance ?? { done: 0, total: null };
    void this.start();
  }
}

class Jobs {
  all: Job[] = $state.raw([]);

  add(job: Job): void {
    this.all = [...this.all, job];
  }

  forget(job: Job): void {
    this.all = this.all.filter((other) => other !== job);
  }
}

export const jobs = new Jobs();

/** Begins something that takes a while. */
export function begin(work: Work): Job {
  const job = new Job(work);
  jobs.add(job);
  void job.start();
  return job;
}
