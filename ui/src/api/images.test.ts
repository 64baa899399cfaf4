import { expect, test } from "vitest";
import { imported, loaded } from "./images";

test("what was loaded is told by name or by id", () => {
  expect(loaded('{"status":"Loading layer","id":"ab"}\r\n{"stream":"Loaded image: nginx:1.29\\n"}\r\n{"stream":"Loaded image ID: sha256:0123\\n"}\r\n')).toEqual(["nginx:1.29", "sha256:0123"]);
  expect(loaded("")).toEqual([]);
});

test("a failure that stands in the lines of an answer of 200 is one", () => {
  expect(() => loaded('{"errorDetail":{"message":"open manifest.json: no such file or directory"},"error":"x"}\r\n')).toThrow("open manifest.json: no such file or directory");
});

test("an import tells the id of what it made, or what failed", () => {
  expect(imported('{"status":"sha256:0123"}\r\n')).toBe("sha256:0123");
  expect(() => imported('{"errorDetail":{"message":"archive/tar: invalid tar header"},"error":"x"}\r\n')).toThrow("invalid tar header");
  expect(() => imported("")).toThrow("its answer is empty");
});
