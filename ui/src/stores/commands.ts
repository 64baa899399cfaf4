/** What the command palette offers. A page adds what it can do now; the shell adds what can be done anywhere. */
import type { IconName } from "../components/icons";

export interface Command {
  id: string;
  title: string;
  /** A word or two on the right: what kind it is. */
  group: string;
  icon: IconName;
  /** As shown: `Ctrl+1`. */
  keys?: string;
  run: () => void;
}

type Source = () => Command[];
const sources = new Set<Source>();

/** Adds commands until the returned function is called. Asked anew each time the palette opens. */
export function offer(source: Source): () => void {
  sources.add(source);
  return () => sources.delete(source);
}

export const commands = (): Command[] => [...sources].flatMap((source) => source());

/** Those whose title has all the words, best first: a title that starts with what was typed, then the rest in order. */
export function matching(all: Command[], typed: string): Command[] {
  const words = typed.toLowerCase().split(/\s+/).filter((word) => word !== "");
  if (words.length === 0) return all;
  const hits = all.filter((command) => {
    const title = `${command.title} ${command.group}`.toLowerCase();
    return words.every((word) => title.includes(word));
  });
  const first = (command: Command) => (command.title.toLowerCase().startsWith(words[0] ?? "") ? 0 : 1);
  return hits.sort((a, b) => first(a) - first(b));
}
