import { expect, test } from "vitest";
import { parseStat } from "./files";

test("what `stat` prints of a folder", () => {
  const text = ["41ed 4096 1760000000 0 0 ./.", "41ed 4096 1760000000 0 0 ./..", "81a4 12 1760000000 1000 1000 ./a b.txt", "a1ff 3 1760000000 0 0 ./link", "81a4 0 1760000000 0 0 ./two", "lines", ""].join("\n");
  expect(parseStat(text)).toEqual([
    { name: "a b.txt", kind: "file", size: 12, mode: 0o644, uid: 1000, gid: 1000, modified: 1_760_000_000_000, target: null },
    { name: "link", kind: "link", size: 3, mode: 0o777, uid: 0, gid: 0, modified: 1_760_000_000_000, target: null },
    { name: "two\nlines", kind: "file", size: 0, mode: 0o644, uid: 0, gid: 0, modified: 1_760_000_000_000, target: null },
  ]);
});
