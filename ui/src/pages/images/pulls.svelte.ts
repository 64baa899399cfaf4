/** Pulls: jobs that go on when their dialog is closed. */
import * as api from "../../api/images";
import { begin, jobs, type Job } from "../../stores/jobs.svelte";
import { go } from "../../stores/route.svelte";
import { toasts } from "../../stores/toasts.svelte";
import { text } from "../../text";
import { shown, type ImageName } from "./names";
import { advance, nothing, summary, type PullProgress } from "./pull_progress";

const words = text.images.pulling;

export class Pull {
  progress: PullProgress = $state.raw(nothing);
  /** Ended well. */
  done = $state(false);
  readonly name: string;
  readonly job: Job;

  constructor(readonly image: ImageName) {
    this.name = shown(image);
    this.job = begin({
      page: "images",
      title: words.job(this.name),
      failed: words.failed(this.name),
      run: async (job, signal) => {
        this.progress = nothing;
        // Docker takes a digest where it takes a tag.
        await api.pull(
          image.repository,
          image.digest ?? image.tag ?? "latest",
          (step) => {
            this.progress = advance(this.progress, step);
            const { fetched, total } = summary(this.progress);
            job.advance = { done: fetched, total };
          },
          signal,
        );
        this.done = true;
        toasts.done(this.progress.upToDate ? words.upToDate(this.name) : words.ready(this.name), { label: words.show, run: () => void show(this.name) });
      },
    });
  }
}

class Pulls {
  all: Pull[] = $state.raw([]);
  /** The one whose dialog is open, or the form for a new one. */
  open: Pull | "new" | null = $state.raw(null);

  /** A pull of the same name that is under way is not begun twice. */
  begin(image: ImageName): Pull {
    const present = this.all.find((pull) => pull.name === shown(image) && jobs.all.includes(pull.job));
    if (present?.job.current.state === "failed") present.job.again();
    if (present) return present;
    const pull = new Pull(image);
    this.all = [...this.all.filter((other) => jobs.all.includes(other.job)), pull];
    return pull;
  }

  of(job: Job): Pull | undefined {
    return this.all.find((pull) => pull.job === job);
  }
}

export const pulls = new Pulls();

async function show(name: string): Promise<void> {
  try {
    const { Id } = await api.inspect(name);
    go("images", Id);
  } catch (error) {
    toasts.failed(text.images.gone.title, error);
  }
}
