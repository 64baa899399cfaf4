/** Which rows of a long list are in sight, and a few around them so that a quick hand sees no gap. */
export function visibleRange(view: { top: number; height: number; rowHeight: number; count: number }): { first: number; end: number } {
  const around = 8;
  const inSight = Math.ceil(view.height / view.rowHeight);
  const first = Math.max(0, Math.min(Math.floor(view.top / view.rowHeight), view.count - inSight) - around);
  return { first, end: Math.min(view.count, first + inSight + 2 * around + 1) };
}
