/** What the product's bundle weighs, and what is not in it. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { beforeAll, expect, test } from "vitest";

const OUT = "dist";
const LIMIT = 400 * 1000;

let files: { name: string; bytes: Buffer }[] = [];

beforeAll(async () => {
  rmSync(OUT, { recursive: true, force: true });
  // As it is shipped: what runs tests says so to those that it starts, and gets another build.
  const { NODE_ENV: _, ...environment } = process.env;
  execFileSync("npm", ["run", "--silent", "build"], { env: environment, stdio: "inherit" });
  files = readdirSync(OUT, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => ({ name: entry.name, bytes: readFileSync(join(entry.parentPath, entry.name)) }));
});

test("all of it is at most 400 kB, compressed", () => {
  const sizes = files.map(({ name, bytes }) => ({ name, size: gzipSync(bytes, { level: 9 }).length }));
  const total = sizes.reduce((sum, { size }) => sum + size, 0);
  const greatest = sizes.sort((a, b) => b.size - a.size).slice(0, 3);
  console.log(`bundle: ${(total / 1000).toFixed(1)} kB gzip in ${sizes.length} files; ${greatest.map(({ name, size }) => `${name} ${(size / 1000).toFixed(1)} kB`).join(", ")}`);
  expect(sizes.length).toBeGreaterThan(5);
  expect(total).toBeLessThanOrEqual(LIMIT);
});

test("the back end in memory is not in it, the desktop's is", () => {
  const code = files.filter(({ name }) => name.endsWith(".js")).map(({ bytes }) => bytes.toString()).join("\n");
  expect(code).toContain("engine_stream_open");
  for (const word of ["harbour-shop", "busy-logger", "window.fake", "?fake="]) expect(code).not.toContain(word);
  expect(files.filter(({ name }) => /fake|scenario/i.test(name))).toEqual([]);
});

test("nothing is fetched from elsewhere", () => {
  for (const { name, bytes } of files.filter((file) => /\.(html|css)$/.test(file.name))) {
    expect([name, /(?:src|href|url\()\s*=?\s*["']?(?:https?:)?\/\//.exec(bytes.toString())?.[0]]).toEqual([name, undefined]);
  }
});
