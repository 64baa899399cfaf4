/** How an image came to be, read from Docker's history: who made a step, and what it ran. */
import type { ImageHistory } from "../../api/types";

export interface Step {
  /** From 1, the oldest. */
  number: number;
  /** `RUN`, `COPY`, `ENV` … as in a Dockerfile, or nothing where the history does not tell. */
  verb: string;
  /** What follows the verb. */
  rest: string;
  /** As the history has it. */
  whole: string;
  size: number;
  /** Milliseconds since the epoch; 0 where it is not told. */
  created: number;
}

const VERBS = "ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|RUN|SHELL|STOPSIGNAL|USER|VOLUME|WORKDIR";

/** `/bin/sh -c #(nop)  CMD ["sh"]`, `RUN /bin/sh -c make # buildkit`, `/bin/sh -c make`: what the Dockerfile said. */
export function readable(created: string): { verb: string; rest: string } {
  const text = created.replace(/\s+# buildkit$/, "").trim();
  const nop = /^(?:\/bin\/sh -c )?#\(nop\)\s*/.exec(text);
  const plain = nop ? text.slice(nop[0].length) : text;
  const named = new RegExp(`^(${VERBS})\\b\\s*([^]*)$`).exec(plain);
  if (named) return { verb: named[1] ?? "", rest: (named[2] ?? "").replace(/^\/bin\/sh -c /, "").replace(/^(?:\|\d+ (?:\S+=\S* )*)\/bin\/sh -c /, "").trim() };
  const shell = /^(?:\|\d+ (?:\S+=\S* )*)?\/bin\/sh -c\s+([^]*)$/.exec(plain);
  if (shell) return { verb: "RUN", rest: (shell[1] ?? "").trim() };
  return { verb: "", rest: plain };
}

/** Oldest first. */
export function steps(history: readonly ImageHistory[]): Step[] {
  return [...history].reverse().map((item, index) => ({
    number: index + 1,
    ...readable(item.CreatedBy),
    whole: item.CreatedBy,
    size: Math.max(0, item.Size),
    created: Math.max(0, item.Created) * 1000,
  }));
}

export interface Part {
  /** The step it is of; null for all the small ones together. */
  step: number | null;
  size: number;
  /** Of the whole, 0 to 1. */
  share: number;
  layers: number;
}

/** The steps with files as parts of the whole, lowest layer first; what would be too small to see is put together at the end. */
export function parts(all: readonly Step[], least = 0.012): Part[] {
  const total = all.reduce((sum, { size }) => sum + size, 0);
  if (total === 0) return [];
  const sized = all.filter(({ size }) => size > 0);
  const big = sized.filter(({ size }) => size / total >= least);
  const small = sized.filter(({ size }) => size / total < least);
  const out: Part[] = big.map(({ number, size }) => ({ step: number, size, share: size / total, layers: 1 }));
  if (small.length > 0) {
    const size = small.reduce((sum, one) => sum + one.size, 0);
    out.push({ step: null, size, share: size / total, layers: small.length });
  }
  return out;
}
