/** Updates, found and installed as the shell would. */
import { BackendError, type UpdateBackend } from "../backend";

/** What a look for updates comes to. */
export type UpdateOutcome = "newest" | "newer" | "unreachable" | "unconfigured" | "tampered";

export interface FakeUpdates extends UpdateBackend {
  outcome: UpdateOutcome;
  /** Between two pieces of a package; a test that looks at the progress sets it high. */
  pieceMs: number;
}

export function fakeUpdates(outcome: UpdateOutcome): FakeUpdates {
  const updates: FakeUpdates = {
    outcome,
    pieceMs: 60,
    async check() {
      if (updates.outcome === "unreachable") {
        throw new BackendError("host", "cannot look for updates at https://updates.example/stable: error sending request: dns error: Name or service not known");
      }
      if (updates.outcome === "unconfigured") {
        throw new BackendError(
          "no_updates",
          "this build of Coracle has no place to look for updates (/usr/share/coracle/updates.json: No such file or directory (os error 2)); update it as you installed it",
        );
      }
      if (updates.outcome === "newest") return null;
      return {
        version: "0.2.0",
        date: "2026-11-28 09:00:00.0 +00:00:00",
        notes: "The machine starts in half the time.\n\n- `docker build` with its cache\n- Files of volumes can be searched\n- <b>No markup</b> of others is run",
      };
    },
    async install(version, progress) {
      const total = 48_000_000;
      for (let piece = 1; piece <= 12; piece++) {
        await new Promise((resolve) => setTimeout(resolve, updates.pieceMs));
        progress((total * piece) / 12, total);
      }
      if (updates.outcome === "tampered") throw new BackendError("host", `the update to ${version} was not fetched: The signature verification failed`);
    },
  };
  return updates;
}
