/** Where the boats lie in the picture of a network: rows on the water beside a quay. Pure; in pixels. */

export const QUAY = 176;
export const ROW = 186;
/** Of a row, from its top. */
export const WATER = 110;
const SLOT = 152;
const WIDEST_SLOT = 216;
const EDGE = 16;
const MOST_ROWS = 2;

export interface Berth {
  /** The middle of the boat, and the surface of its water. */
  x: number;
  y: number;
  /** Ropes run along a row from the quay. */
  row: number;
}

export interface Layout {
  width: number;
  height: number;
  rows: number;
  slot: number;
  berths: Berth[];
}

/** Berths for as many as there is room for, in order; the others are left to the table. */
export function layout(width: number, boats: number): Layout {
  const room = Math.max(SLOT, width - QUAY - EDGE);
  const columns = Math.max(1, Math.floor(room / SLOT));
  const drawn = Math.min(boats, columns * MOST_ROWS);
  const used = Math.max(1, Math.min(columns, drawn));
  const slot = Math.min(WIDEST_SLOT, room / used);
  const rows = Math.max(1, Math.ceil(drawn / columns));
  const berths = Array.from({ length: drawn }, (_, index): Berth => {
    const row = Math.floor(index / columns);
    return { x: QUAY + slot * ((index % columns) + 0.5), y: row * ROW + WATER, row };
  });
  return { width: Math.max(width, QUAY + EDGE + SLOT), height: rows * ROW, rows, slot, berths };
}

/** Text that fits a width; the middle goes, as names differ at their ends. */
export function fitted(text: string, width: number, measure: (text: string) => number): string {
  const letters = [...text];
  // No more than could be seen is measured.
  let kept = Math.min(letters.length, Math.ceil(width / 2));
  if (kept === letters.length && measure(text) <= width) return text;
  for (let most = kept - 1, least = 2; least <= most; ) {
    const middle = (least + most) >> 1;
    if (measure(cut(letters, middle)) <= width) least = middle + 1;
    else most = middle - 1;
    kept = most;
  }
  return cut(letters, Math.max(2, kept));
}

function cut(letters: readonly string[], kept: number): string {
  const end = Math.floor(kept / 2);
  return `${letters.slice(0, kept - end).join("")}…${letters.slice(letters.length - end).join("")}`;
}

/** A calm surface, wave beside wave. */
export function wave(from: number, to: number, y: number, length = 26, height = 3): string {
  let path = `M${from} ${y}`;
  for (let x = from; x < to; x += length) path += `q${length / 4} ${-height} ${length / 2} 0t${length / 2} 0`;
  return path;
}

/** A rope that hangs between two places. */
export const rope = (from: { x: number; y: number }, to: { x: number; y: number }, sag: number): string =>
  `M${from.x} ${from.y}Q${(from.x + to.x) / 2} ${Math.max(from.y, to.y) + sag} ${to.x} ${to.y}`;
