import type { BackendError, MachineState, MachineStatus, MachineVerb } from "../backend/backend";
import { backend } from "../backend/current";
import type { Load } from "./load";

/** The machine: how it is, and what is being done with it. */
class Machine {
  current: Load<MachineStatus> = $state.raw({ state: "loading" });
  /** What the app is doing with it at the user's wish. */
  doing: { verb: MachineVerb; step: string | null; notices: string[] } | null = $state.raw(null);
  /** Why the last wish failed. */
  failure: string | null = $state(null);

  get state(): MachineState | null {
    return this.current.state === "ready" ? this.current.value.state : null;
  }

  async refresh(): Promise<void> {
    try {
      this.current = { state: "ready", value: await backend.machine() };
    } catch (error) {
      this.current = { state: "failed", error: error as BackendError };
    }
  }

  async run(verb: MachineVerb): Promise<boolean> {
    if (this.doing) return false;
    this.failure = null;
    this.doing = { verb, step: null, notices: [] };
    try {
      await backend.runMachine(verb, (event) => {
        const now = this.doing ?? { verb, step: null, notices: [] };
        this.doing = event.kind === "step" ? { ...now, step: event.message } : { ...now, notices: [...now.notices, event.message] };
      });
      return true;
    } catch (error) {
      this.failure = (error as BackendError).message;
      return false;
    } finally {
      this.doing = null;
      await this.refresh();
    }
  }
}

export const machine = new Machine();
