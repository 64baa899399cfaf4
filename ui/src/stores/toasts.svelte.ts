import { BackendError } from "../backend/backend";

export interface Toast {
  id: number;
  kind: "done" | "failed" | "info";
  title: string;
  /** What went wrong, in the engine's own words. */
  detail?: string;
  action?: { label: string; run: () => void };
}

const SHOWN_MS = 6000;

class Toasts {
  all: Toast[] = $state.raw([]);
  #next = 1;

  /** Says what was done. A way back is shown longer. */
  done(title: string, action?: Toast["action"]): void {
    this.#add({ kind: "done", title, action }, action ? SHOWN_MS * 2 : SHOWN_MS);
  }

  info(title: string, detail?: string): void {
    this.#add({ kind: "info", title, detail }, SHOWN_MS);
  }

  /** Says what failed, and why; stays until it is closed. */
  failed(title: string, error: unknown): void {
    if (error instanceof BackendError && error.kind === "cancelled") return;
    this.#add({ kind: "failed", title, detail: error instanceof Error ? error.message : String(error) });
  }

  close(id: number): void {
    this.all = this.all.filter((toast) => toast.id !== id);
  }

  #add(toast: Omit<Toast, "id">, shownMs?: number): void {
    const id = this.#next++;
    this.all = [...this.all.slice(-4), { ...toast, id }];
    if (shownMs !== undefined) setTimeout(() => this.close(id), shownMs);
  }
}

export const toasts = new Toasts();
