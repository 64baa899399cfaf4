/** What the makers of a release wrote about it, to be read. */

const format = new Intl.DateTimeFormat("en-GB", { dateStyle: "long" });

/** The day of a release, from what its maker wrote: `2026-11-28`, with or without a time. Empty where it is no date. */
export function day(date: string | null): string {
  const match = /^(\d{4})-(\d{2})-(\d{2})/.exec(date ?? "");
  if (!match) return "";
  const at = new Date(Number(match[1]), Number(match[2]) - 1, Number(match[3]));
  return Number.isNaN(at.getTime()) ? "" : format.format(at);
}

export type NotesLine = { kind: "title"; text: string } | { kind: "items"; items: string[] } | { kind: "text"; text: string };

/** Notes as paragraphs, lists and titles, of what is usual in a changelog. All of it stays text. */
export function notes(written: string): NotesLine[] {
  const lines: NotesLine[] = [];
  for (const line of written.split(/\r?\n/)) {
    const text = line.trim();
    const before = lines.at(-1);
    const title = /^#{1,6}\s+(.*)$/.exec(text);
    const item = /^[-*+]\s+(.*)$/.exec(text);
    if (title) lines.push({ kind: "title", text: title[1] ?? "" });
    else if (item) {
      if (before?.kind === "items") before.items.push(item[1] ?? "");
      else lines.push({ kind: "items", items: [item[1] ?? ""] });
    } else if (text === "") lines.push({ kind: "text", text: "" });
    // A line that goes on where the one before broke off.
    else if (before?.kind === "text" && before.text !== "") before.text += ` ${text}`;
    else if (before?.kind === "items") before.items.push(`${before.items.pop() ?? ""} ${text}`);
    else lines.push({ kind: "text", text });
  }
  return lines.filter((line) => line.kind !== "text" || line.text !== "");
}
