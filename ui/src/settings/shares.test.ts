import { expect, it } from "vitest";
import { formatShares, parseShares, shareProblems, type Share } from "./shares";

const problems = (text: string) => shareProblems(parseShares(text) ?? []);

it("shares are read as they are written", () => {
  for (const text of ["none", "/home/me", "/home/me,/data:ro", "/"]) expect(formatShares(parseShares(text) ?? [])).toBe(text);
  expect(parseShares("/home/me,/data:ro")).toEqual([
    { path: "/home/me", readOnly: false },
    { path: "/data", readOnly: true },
  ]);
  expect(formatShares(parseShares("//home/me/:rw") ?? [])).toBe("/home/me");
});

it("what is no absolute path is refused", () => {
  for (const wrong of ["", "home", "/a/../b", "/a,b", "/a/./b:ro", "/a,,/b", "/a\0b"]) expect(parseShares(wrong), wrong).toBeNull();
});

it("the guest keeps what is its own, and shares do not nest", () => {
  for (const [text, words] of [
    ["/", "its own /bin"],
    ["/var", "its own /var/lib/coracle"],
    ["/proc/1", "its own /proc"],
    ["/usr", "its own /usr/bin"],
    ["/home/me,/home", "inside /home"],
    ["/home/me,/home/me:ro", "twice"],
  ] as const) {
    expect(problems(text)[0], text).toContain(words);
  }
  expect(problems("/home/me,/tmp,/usr/local/src,/etc/app,/home/men")).toEqual([null, null, null, null, null]);
  // Both of a pair are named only where both are wrong.
  expect(problems("/home,/home/me")).toEqual([null, expect.stringContaining("inside /home")]);
});

it("a folder whose name would be read as something else is refused", () => {
  const share = (path: string, readOnly = false): Share => ({ path, readOnly });
  expect(shareProblems([share("/a,b")])[0]).toContain("comma");
  expect(shareProblems([share("/a:ro")])[0]).toContain(":ro");
  expect(shareProblems([share("/a:rw")])[0]).toContain(":ro or :rw");
  expect(shareProblems([share("/a:ro", true)])[0]).toBeNull();
  expect(shareProblems([share("relative")])[0]).toContain("full path");
});
