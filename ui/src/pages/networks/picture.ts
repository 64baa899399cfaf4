/** Where the boats lie in the picture of a network: rows on the water beside a quay. Pure; in pixels. */

export const QUAY = 158;
export const ROW = 168;
/** Of a row, from its top. */
export const WATER = 98;
const SLOT = 152;
const WIDEST_SLOT = 216;
const EDGE = 16;
const MOST_ROWS = 4;

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

/** Text that fits a width, in a font whose letters take about `letter` pixels; the middle goes, as names differ at their ends. */
export function fitted(text: string, width: number, letter = 6.6): string {
  const most = Math.max(4, Math.floor(width / letter));
  const letters = [...text];
  if (letters.length <= most) return text;
  const end = Math.floor((most - 1) / 2);
  return `${letters.slice(0, most - 1 - end).join("")}…${letters.slice(-end).join("")}`;
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
