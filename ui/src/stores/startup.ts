/** When the window first showed something of the engine's: a mark in the browser's own timeline, for measuring the start. */
let marked = false;

export function firstContent(): void {
  if (marked) return;
  marked = true;
  // Behind the frame that has it.
  requestAnimationFrame(() => performance.mark("first-content"));
}
