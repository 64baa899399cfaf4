import { expect, test } from "vitest";
import type { ImageHistory } from "../../api/types";
import { parts, readable, steps } from "./history";

test.each([
  ['/bin/sh -c #(nop)  CMD ["sh"]', "CMD", '["sh"]'],
  ["/bin/sh -c #(nop) ADD file:5d20 in / ", "ADD", "file:5d20 in /"],
  ["RUN /bin/sh -c apt-get update && apt-get install -y curl # buildkit", "RUN", "apt-get update && apt-get install -y curl"],
  ["RUN |1 VERSION=3 /bin/sh -c make # buildkit", "RUN", "make"],
  ["/bin/sh -c make\n  && make install", "RUN", "make\n  && make install"],
  ["COPY src /app/src # buildkit", "COPY", "src /app/src"],
  ["bazel build ...", "", "bazel build ..."],
  ["ENVELOPE", "", "ENVELOPE"],
])("%s", (created, verb, rest) => {
  expect(readable(created)).toEqual({ verb, rest });
});

const item = (CreatedBy: string, Size: number): ImageHistory => ({ Id: "<missing>", Created: 1, CreatedBy, Size, Comment: "", Tags: null });

test("steps are told oldest first, and times in milliseconds", () => {
  expect(steps([item("CMD x", 0), item("ADD y", 7)]).map(({ number, verb, size, created }) => [number, verb, size, created])).toEqual([
    [1, "ADD", 7, 1000],
    [2, "CMD", 0, 1000],
  ]);
});

test("parts are shares of the whole; what is too small is put together", () => {
  const all = steps([item("RUN c", 4), item("RUN b", 5), item("ENV x", 0), item("RUN a", 991)]);
  expect(parts(all)).toEqual([
    { step: 1, size: 991, share: 0.991, layers: 1 },
    { step: null, size: 9, share: 0.009, layers: 2 },
  ]);
  expect(parts(steps([item("ENV x", 0)]))).toEqual([]);
});
