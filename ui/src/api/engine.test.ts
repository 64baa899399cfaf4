import { describe, expect, test } from "vitest";
import { BackendError, EngineError, type Backend, type EngineAnswer, type StreamListener } from "../backend/backend";
import { setBackend } from "../backend/current";
import { at, call, callJson, callWithProgress, withQuery } from "./engine";

const answers = (answer: Partial<EngineAnswer>) =>
  setBackend({ engine: async () => ({ status: 200, headers: {}, body: new Uint8Array(0), ...answer }) } as unknown as Backend);
const bytes = (text: string) => new TextEncoder().encode(text);

test("paths and queries are encoded", () => {
  expect(at`/containers/${"a/../b?c"}/json`).toBe("/containers/a%2F..%2Fb%3Fc/json");
  expect(withQuery("/x", { all: true, none: undefined, off: false, n: 3, filters: { a: ["b"] } })).toBe("/x?all=1&n=3&filters=%7B%22a%22%3A%5B%22b%22%5D%7D");
  expect(withQuery("/x", {})).toBe("/x");
});

describe("a refusal", () => {
  test("has Docker's words and status", async () => {
    answers({ status: 409, body: bytes('{"message":"in use"}') });
    await expect(call("DELETE", "/x")).rejects.toMatchObject({ status: 409, message: "in use" });
  });

  test("that is no JSON is shown as it came, and an empty one says its status", async () => {
    answers({ status: 502, body: bytes("bad gateway\n") });
    await expect(call("GET", "/x")).rejects.toThrow(new EngineError(502, "bad gateway"));
    answers({ status: 500 });
    await expect(call("GET", "/x")).rejects.toThrow("500");
  });

  test("an answer that should be JSON and is not says which call it was", async () => {
    answers({ body: bytes("<html>") });
    await expect(callJson("GET", "/version")).rejects.toThrow("GET /version is not JSON");
  });
});

describe("progress", () => {
  const streams = (play: (listener: StreamListener) => void) =>
    setBackend({
      async engineStream(_: unknown, listener: StreamListener) {
        queueMicrotask(() => play(listener));
        return { status: 200, headers: {}, write: async () => undefined, finish: async () => undefined, close: () => undefined };
      },
    } as unknown as Backend);
  const pull = async () => {
    const seen: (string | undefined)[] = [];
    await callWithProgress("POST", "/images/create", {}, (step) => seen.push(step.status));
    return seen;
  };

  test("comes line by line, wherever it is cut", async () => {
    streams((listener) => {
      listener.data(bytes('{"status":"a"}\r\n{"sta'));
      listener.data(bytes('tus":"b"}\r\n'));
      listener.end();
    });
    expect(await pull()).toEqual(["a", "b"]);
  });

  test("an error in the stream fails the call although its status was 200", async () => {
    streams((listener) => {
      listener.data(bytes('{"errorDetail":{"message":"no such image"},"error":"no such image"}\n'));
      listener.end();
    });
    await expect(pull()).rejects.toThrow("no such image");
  });

  test("a lost connection fails the call", async () => {
    streams((listener) => listener.end(new BackendError("engine_unreachable", "reset")));
    await expect(pull()).rejects.toThrow("reset");
  });
});
