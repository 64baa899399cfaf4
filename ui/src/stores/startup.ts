/** When the window first showed something of the engine's: a mark in the browser's own timeline, for measuring the start. */
let marked = false;

export function firstContent(): void {
  if (marked) return;
  marked = true;
  // The next frame has it, and at the one behind it that one was drawn.
  requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("first-content")));
}
