import type { BackendError } from "../backend/backend";

/** What a page can know of something that the engine tells. */
export type Load<T> =
  /** The engine does not run, or is not reached yet: nothing was asked. */
  | { state: "waiting" }
  | { state: "loading" }
  | { state: "ready"; value: T }
  | { state: "failed"; error: BackendError };

/** The value if it is there. */
export function ready<T>(load: Load<T>): T | undefined {
  return load.state === "ready" ? load.value : undefined;
}
