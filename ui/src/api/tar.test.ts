import { describe, expect, test } from "vitest";
import { TarReader, writeTar, type TarEntry } from "./tar";

const utf8 = new TextEncoder();

function read(archive: Uint8Array, piece = archive.length): { entry: TarEntry; text: string }[] {
  const found: { entry: TarEntry; text: string }[] = [];
  const reader = new TarReader(
    (entry, bytes) => found.push({ entry, text: bytes ? new TextDecoder().decode(bytes) : "" }),
    () => true,
  );
  for (let at = 0; at < archive.length; at += piece) reader.push(archive.subarray(at, at + piece));
  return found;
}

const long = `deep/${"folder/".repeat(30)}name-é.txt`;
const archive = writeTar([
  { name: "etc", folder: true },
  { name: "etc/hosts", bytes: utf8.encode("127.0.0.1 localhost\n"), mode: 0o600, modified: 1_760_000_000_000 },
  { name: "etc/link", target: "hosts" },
  { name: long, bytes: utf8.encode("x".repeat(1500)) },
]);

describe("what was written is read", () => {
  test.each([archive.length, 1, 100, 512, 513])("in pieces of %i bytes", (piece) => {
    const found = read(archive, piece);
    expect(found.map(({ entry }) => [entry.name, entry.kind, entry.size])).toEqual([
      ["etc/", "folder", 0],
      ["etc/hosts", "file", 20],
      ["etc/link", "link", 0],
      [long, "file", 1500],
    ]);
    expect(found[1]).toMatchObject({ text: "127.0.0.1 localhost\n", entry: { mode: 0o600, modified: 1_760_000_000_000 } });
    expect(found[2]?.entry.target).toBe("hosts");
    expect(found[3]?.text).toHaveLength(1500);
  });
});

test("bytes that nobody wants are passed over", () => {
  const names: string[] = [];
  new TarReader((entry, bytes) => {
    expect(bytes).toBeNull();
    names.push(entry.name);
  }).push(archive);
  expect(names).toHaveLength(4);
});

test("a size in base 256 is read", () => {
  const header = writeTar([{ name: "big" }]).subarray(0, 512).slice();
  header.fill(0, 124, 136);
  header[124] = 0x80;
  new DataView(header.buffer).setUint32(132, 0x4000_0000);
  expect(read(header)).toEqual([]);
  const sizes: number[] = [];
  new TarReader((entry) => sizes.push(entry.size)).push(header);
  expect(sizes).toEqual([0x4000_0000]);
});

test("noise is no reason to hang or throw", () => {
  const noise = Uint8Array.from({ length: 20_000 }, (_, index) => (index * 7919) % 251);
  expect(() => read(noise)).not.toThrow();
});
