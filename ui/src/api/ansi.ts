/** Colours of terminals (ECMA-48, "SGR") to spans of styled text. All other control sequences are taken out. */

export interface Style {
  /** 0–15 of the palette, or a CSS colour. */
  colour?: number | string;
  background?: number | string;
  bold?: boolean;
  dim?: boolean;
  italic?: boolean;
  underline?: boolean;
  inverse?: boolean;
}

export interface Span {
  text: string;
  style: Style;
}

const PLAIN: Style = Object.freeze({});

// CSI … final byte; OSC … BEL or ST; other two-byte escapes.
const SEQUENCE = /\x1b(?:\[([0-?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\|$)|[PX^_][^\x1b]*(?:\x1b\\|$)|[ -/]*[0-~]|$)/g;
// What would move, hide or reorder text: C0 and C1 but tab, and Unicode's direction overrides.
const CONTROL = /[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Shows a control character as a picture instead of obeying it. */
function picture(character: string): string {
  const code = character.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  return code === 0x7f ? "␡" : "�";
}

/** Text of unknown origin, with nothing in it that a renderer would obey. */
export function harmless(text: string): string {
  return text.replace(CONTROL, picture);
}

/** {@link harmless}, for text of several lines. */
export const harmlessLines = (text: string): string => text.split("\n").map(harmless).join("\n");

/** What a terminal would show of a line in which the cursor went back to its start: the last writing. */
function overwritten(line: string): string {
  const back = line.lastIndexOf("\r");
  return back < 0 ? line : line.slice(back + 1);
}

/** A line without its control sequences: what is searched and copied. */
export function plain(line: string): string {
  if (!/[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e-\u2069]/.test(line)) return line;
  return harmless(overwritten(line).replace(SEQUENCE, ""));
}

/** A line as spans; `start` is the style that the line before ended with. */
export function parse(line: string, start: Style = PLAIN): { spans: Span[]; end: Style } {
  const text = overwritten(line);
  if (!text.includes("\x1b")) {
    return { spans: text === "" ? [] : [{ text: harmless(text), style: start }], end: start };
  }
  const spans: Span[] = [];
  let style = start;
  let from = 0;
  SEQUENCE.lastIndex = 0;
  for (let match = SEQUENCE.exec(text); match; match = SEQUENCE.exec(text)) {
    if (match.index > from) spans.push({ text: harmless(text.slice(from, match.index)), style });
    from = match.index + match[0].length;
    if (match[2] === "m") style = select(style, match[1] ?? "");
    if (match[0] === "") SEQUENCE.lastIndex++;
  }
  if (from < text.length) spans.push({ text: harmless(text.slice(from)), style });
  return { spans, end: style };
}

function select(style: Style, parameters: string): Style {
  const codes = parameters.split(/[;:]/).map((code) => (code === "" ? 0 : Number.parseInt(code, 10)));
  let next: Style = { ...style };
  for (let index = 0; index < codes.length; index++) {
    const code = codes[index] ?? 0;
    if (code === 0) next = {};
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.underline = true;
    else if (code === 7) next.inverse = true;
    else if (code === 22) delete next.bold, delete next.dim;
    else if (code === 23) delete next.italic;
    else if (code === 24) delete next.underline;
    else if (code === 27) delete next.inverse;
    else if (code >= 30 && code <= 37) next.colour = code - 30;
    else if (code >= 90 && code <= 97) next.colour = code - 90 + 8;
    else if (code === 39) delete next.colour;
    else if (code >= 40 && code <= 47) next.background = code - 40;
    else if (code >= 100 && code <= 107) next.background = code - 100 + 8;
    else if (code === 49) delete next.background;
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(codes, index + 1);
      if (colour !== undefined) next[code === 38 ? "colour" : "background"] = colour;
      index += used;
    }
  }
  return Object.keys(next).length === 0 ? PLAIN : next;
}

/** `5;n` of 256 colours or `2;r;g;b`, and how many codes it took. */
function extended(codes: number[], index: number): [number | string | undefined, number] {
  const byte = (at: number) => Math.min(255, Math.max(0, codes[at] ?? 0));
  if (codes[index] === 5) return [indexed(byte(index + 1)), 2];
  if (codes[index] === 2) return [`rgb(${byte(index + 1)} ${byte(index + 2)} ${byte(index + 3)})`, 4];
  return [undefined, 0];
}

function indexed(number: number): number | string {
  if (number < 16) return number;
  if (number >= 232) {
    const grey = 8 + (number - 232) * 10;
    return `rgb(${grey} ${grey} ${grey})`;
  }
  const cube = number - 16;
  const level = (step: number) => (step === 0 ? 0 : 55 + step * 40);
  return `rgb(${level(Math.floor(cube / 36))} ${level(Math.floor(cube / 6) % 6)} ${level(cube % 6)})`;
}
