import type { Preferences } from "../backend/backend";
import { backend } from "../backend/current";
import { toasts } from "./toasts.svelte";
import { text } from "../text";

/** What the app remembers about itself; the theme takes effect here. */
class PreferencesStore {
  current: Preferences | null = $state.raw(null);

  async load(): Promise<void> {
    try {
      this.current = await backend.preferences();
    } catch (error) {
      toasts.failed(text.preferences.notRead, error);
    }
    this.#dress();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#dress());
  }

  async change(changes: Partial<Preferences>): Promise<void> {
    try {
      this.current = await backend.changePreferences(changes);
    } catch (error) {
      toasts.failed(text.preferences.notKept, error);
    }
    this.#dress();
  }

  #dress(): void {
    const theme = this.current?.theme ?? "system";
    const dark = theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset["theme"] = dark ? "dark" : "light";
  }
}

export const preferences = new PreferencesStore();
