/** Reads tar archives (POSIX.1-2001 ustar and pax, GNU long names) as they come, and writes small ones. */

export interface TarEntry {
  name: string;
  kind: "file" | "folder" | "link" | "other";
  size: number;
  mode: number;
  uid: number;
  gid: number;
  /** Milliseconds since the epoch. */
  modified: number;
  /** Where a link leads. */
  target: string | null;
}

const BLOCK = 512;
const utf8 = new TextDecoder();

/** Calls `entry` for each member. `wanted` says whether its bytes are collected; they come with `entry`. */
export class TarReader {
  #pending = new Uint8Array(0);
  #skip = 0;
  #body: { entry: TarEntry | "pax" | "longname" | "longlink"; chunks: Uint8Array[]; left: number; padding: number } | null = null;
  #override: { path?: string; linkpath?: string; size?: number } = {};

  constructor(
    readonly entry: (entry: TarEntry, bytes: Uint8Array | null) => void,
    readonly wanted: (entry: TarEntry) => boolean = () => false,
  ) {}

  push(bytes: Uint8Array): void {
    let data = bytes;
    for (;;) {
      if (this.#skip > 0) {
        const skipped = Math.min(this.#skip, data.length);
        this.#skip -= skipped;
        data = data.subarray(skipped);
        if (this.#skip > 0) return;
      }
      if (this.#body) {
        const taken = Math.min(this.#body.left, data.length);
        this.#body.chunks.push(data.slice(0, taken));
        this.#body.left -= taken;
        data = data.subarray(taken);
        if (this.#body.left > 0) return;
        this.#finishBody();
        continue;
      }
      const needed = BLOCK - this.#pending.length;
      if (data.length < needed) {
        this.#pending = joined([this.#pending, data]);
        return;
      }
      const header = joined([this.#pending, data.subarray(0, needed)]);
      this.#pending = new Uint8Array(0);
      data = data.subarray(needed);
      this.#header(header);
    }
  }

  #header(block: Uint8Array): void {
    if (block.every((byte) => byte === 0)) return;
    const type = String.fromCharCode(block[156] ?? 0);
    let size = number(block, 124, 12);
    const padding = (length: number) => (BLOCK - (length % BLOCK)) % BLOCK;
    const special = { x: "pax", L: "longname", K: "longlink" } as const;
    if (type === "x" || type === "L" || type === "K") {
      this.#body = { entry: special[type], chunks: [], left: size, padding: padding(size) };
      return;
    }
    if (type === "g") {
      this.#skip = size + padding(size);
      return;
    }
    const prefix = text(block, 345, 155);
    const short = text(block, 0, 100);
    size = this.#override.size ?? size;
    const name = this.#override.path ?? (prefix === "" || text(block, 257, 5) !== "ustar" ? short : `${prefix}/${short}`);
    const link = type === "2" || type === "1";
    const entry: TarEntry = {
      name,
      kind: link ? "link" : type === "5" || name.endsWith("/") ? "folder" : type === "0" || type === "\0" ? "file" : "other",
      size: link ? 0 : size,
      mode: number(block, 100, 8) & 0o7777,
      uid: number(block, 108, 8),
      gid: number(block, 116, 8),
      modified: number(block, 136, 12) * 1000,
      target: link ? (this.#override.linkpath ?? text(block, 157, 100)) : null,
    };
    this.#override = {};
    const body = entry.kind === "file" ? size : 0;
    if (body > 0 && this.wanted(entry)) {
      this.#body = { entry, chunks: [], left: body, padding: padding(body) };
      return;
    }
    this.#skip = body + padding(body);
    this.entry(entry, null);
  }

  #finishBody(): void {
    const body = this.#body;
    if (!body) return;
    this.#body = null;
    this.#skip = body.padding;
    const bytes = joined(body.chunks);
    if (body.entry === "pax") {
      const records = paxRecords(bytes);
      const size = records.get("size");
      this.#override = {
        ...this.#override,
        path: records.get("path") ?? this.#override.path,
        linkpath: records.get("linkpath") ?? this.#override.linkpath,
        size: size === undefined ? this.#override.size : Number(size),
      };
    } else if (body.entry === "longname") this.#override.path = utf8.decode(bytes).replace(/\0+$/, "");
    else if (body.entry === "longlink") this.#override.linkpath = utf8.decode(bytes).replace(/\0+$/, "");
    else this.entry(body.entry, bytes);
  }
}

/** Records of `length key=value\n`, where the length counts bytes and includes itself. */
function paxRecords(bytes: Uint8Array): Map<string, string> {
  const records = new Map<string, string>();
  let at = 0;
  while (at < bytes.length) {
    const space = bytes.indexOf(32, at);
    if (space < 0) break;
    const length = Number.parseInt(utf8.decode(bytes.subarray(at, space)), 10);
    if (!(length > space - at) || at + length > bytes.length) break;
    const record = utf8.decode(bytes.subarray(space + 1, at + length - 1));
    const equals = record.indexOf("=");
    if (equals > 0) records.set(record.slice(0, equals), record.slice(equals + 1));
    at += length;
  }
  return records;
}

function text(block: Uint8Array, at: number, length: number): string {
  const field = block.subarray(at, at + length);
  const end = field.indexOf(0);
  return utf8.decode(end < 0 ? field : field.subarray(0, end));
}

/** Octal digits, or base 256 when the first bit is set (GNU, large numbers). */
function number(block: Uint8Array, at: number, length: number): number {
  if (((block[at] ?? 0) & 0x80) !== 0) {
    let value = (block[at] ?? 0) & 0x7f;
    for (let index = at + 1; index < at + length; index++) value = value * 256 + (block[index] ?? 0);
    return Number.isSafeInteger(value) ? value : 0;
  }
  const value = Number.parseInt(text(block, at, length).trim(), 8);
  return Number.isSafeInteger(value) && value >= 0 ? value : 0;
}

function joined(chunks: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

export interface TarMember {
  name: string;
  mode?: number;
  folder?: boolean;
  target?: string;
  modified?: number;
  bytes?: Uint8Array;
}

/** An archive of these members; a long name is told in a pax record. */
export function writeTar(members: TarMember[]): Uint8Array<ArrayBuffer> {
  const chunks: Uint8Array[] = [];
  const bytesOf = (value: string) => new TextEncoder().encode(value);
  const add = (name: string, type: string, body: Uint8Array, member: TarMember) => {
    const block = new Uint8Array(BLOCK);
    const put = (value: string, at: number, length: number) => block.set(bytesOf(value).subarray(0, length), at);
    const octal = (value: number, length: number) => value.toString(8).padStart(length - 1, "0");
    put(name, 0, 100);
    put(octal(member.mode ?? (member.folder ? 0o755 : 0o644), 8), 100, 8);
    put(octal(0, 8), 108, 8);
    put(octal(0, 8), 116, 8);
    put(octal(body.length, 12), 124, 12);
    put(octal(Math.floor((member.modified ?? 0) / 1000), 12), 136, 12);
    put("        ", 148, 8);
    put(type, 156, 1);
    put(member.target ?? "", 157, 100);
    put("ustar\u000000", 257, 8);
    const sum = block.reduce((total, byte) => total + byte, 0);
    put(`${octal(sum, 7)}\0 `, 148, 8);
    chunks.push(block, body, new Uint8Array((BLOCK - (body.length % BLOCK)) % BLOCK));
  };
  for (const member of members) {
    if (bytesOf(member.name).length > 100) {
      const record = ` path=${member.name}\n`;
      const plain = bytesOf(record).length;
      let length = plain + String(plain).length;
      if (String(length).length !== String(plain).length) length = plain + String(length).length;
      add("pax", "x", bytesOf(`${length}${record}`), {name: "pax"});
    }
    const type = member.target !== undefined ? "2" : member.folder ? "5" : "0";
    add(member.folder && !member.name.endsWith("/") ? `${member.name}/` : member.name, type, member.bytes ?? new Uint8Array(0), member);
  }
  chunks.push(new Uint8Array(2 * BLOCK));
  return joined(chunks);
}
