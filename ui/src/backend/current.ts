import type { Backend } from "./backend";

/** The program around this page. Set once, before anything else runs. */
export let backend: Backend;

export function setBackend(program: Backend): void {
  backend = program;
}
