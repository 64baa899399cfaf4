/** Rules that a reader would otherwise have to check in every change. */
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "..");
const sources = readdirSync(import.meta.dirname, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && /\.(ts|svelte|css)$/.test(entry.name) && !/\.test\.ts$/.test(entry.name))
  .map((entry) => join(entry.parentPath, entry.name))
  .map((path) => ({ path: relative(ROOT, path), text: readFileSync(path, "utf8") }));

const having = (pattern: RegExp) => sources.filter(({ text }) => pattern.test(text)).map(({ path }) => path);

test("only one file knows the desktop shell", () => {
  expect(having(/from "@tauri-apps\//)).toEqual(["src/backend/tauri.ts"]);
});

test("nothing from outside becomes markup or code", () => {
  expect(having(/\{@html|\.(?:inner|outer)HTML\b|insertAdjacentHTML|document\.write|\beval\(|new Function\(/)).toEqual([]);
});

test("only the first file knows the back end in memory", () => {
  expect(having(/from "[^"]*backend\/fake|import\("[^"]*backend\/fake/)).toEqual(["src/main.ts"]);
});

test("the lock file names no registry", () => {
  expect(readFileSync(join(ROOT, "package-lock.json"), "utf8")).not.toMatch(/"resolved"|https?:\/\/[^"]*\.tgz/);
});
