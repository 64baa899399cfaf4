import { beforeEach, expect, it } from "vitest";
import type { ImageSummary } from "../../api/types";
import { BackendError, type Backend, type EngineAnswer, type EngineRequest } from "../../backend/backend";
import { setBackend } from "../../backend/current";
import { choose, hello, lastResort, type Hello } from "./hello";

const image = (tag: string | null, size = 1): ImageSummary => ({
  Id: `sha256:${tag}`,
  ParentId: "",
  RepoTags: tag === null ? ["<none>:<none>"] : [tag],
  RepoDigests: [],
  Created: 0,
  Size: size,
  SharedSize: 0,
  Labels: null,
  Containers: 0,
});

it("greets with what was made for it, else with what has echo", () => {
  expect(choose([image("busybox:1"), image("hello-world:linux")])).toEqual({ image: "hello-world:linux", command: null });
  expect(choose([image("debian:13"), image("registry.example:5000/library/busybox:latest")])?.image).toBe("registry.example:5000/library/busybox:latest");
  expect(choose([image("mine:1"), image("my-busybox:1"), image(null)])).toBeNull();
  expect(lastResort([image(null, 1), image("large:1", 9), image("small:1", 3)])?.image).toBe("small:1");
  expect(lastResort([image(null)])).toBeNull();
});

/** An engine of a few answers. */
let images: ImageSummary[];
let pull: "works" | "fails";
let code: number;
let output: string;
let calls: string[];
let refusal: string | null;

beforeEach(() => {
  images = [];
  pull = "works";
  code = 0;
  output = "\nahoy\n\n";
  calls = [];
  refusal = null;
  const answer = (body: unknown, status = 200): EngineAnswer => ({
    status,
    headers: {},
    body: body instanceof Uint8Array ? body : new TextEncoder().encode(JSON.stringify(body)),
  });
  const frame = (text: string): Uint8Array => {
    const payload = new TextEncoder().encode(text);
    const framed = new Uint8Array(8 + payload.length);
    framed[0] = 1;
    new DataView(framed.buffer).setUint32(4, payload.length);
    framed.set(payload, 8);
    return framed;
  };
  setBackend({
    async engine(request: EngineRequest) {
      const path = request.path.split("?")[0] ?? "";
      calls.push(`${request.method} ${path}${typeof request.body === "string" ? ` ${request.body}` : ""}`);
      if (path === "/images/json") return answer(images);
      if (path === "/containers/create") return refusal === null ? answer({ Id: "c1" }, 201) : answer({ message: refusal }, 500);
      if (path.endsWith("/wait")) return answer({ StatusCode: code });
      if (path.endsWith("/logs")) return answer(frame(output));
      return answer({}, 204);
    },
    async engineStream(_request, listener) {
      calls.push("pull");
      setTimeout(() => {
        const line = pull === "works" ? { status: "Pull complete", id: "a" } : { error: "no such host", errorDetail: { message: "no such host" } };
        listener.data(new TextEncoder().encode(`${JSON.stringify(line)}\n`));
        listener.end();
      }, 0);
      return { status: 200, headers: {}, write: async () => undefined, finish: async () => undefined, close: () => undefined };
    },
  } as Partial<Backend> as Backend);
});

async function run(): Promise<Hello[]> {
  const told: Hello[] = [];
  await hello((state) => told.push(state), new AbortController().signal);
  return told;
}

it("shows what the container wrote, and removes it", async () => {
  images = [image("alpine:3")];
  const told = await run();
  expect(told.map(({ state }) => state)).toEqual(["looking", "creating", "listening", "said"]);
  expect(told.at(-1)).toEqual({ state: "said", image: "alpine:3", words: ["ahoy"] });
  expect(JSON.parse(calls.find((call) => call.includes("create"))?.replace(/^\S+ \S+ /, "") ?? "")).toMatchObject({ Image: "alpine:3", Entrypoint: [], Cmd: ["echo", expect.any(String)] });
  expect(calls.at(-1)).toBe("DELETE /containers/c1");
});

it("fetches an image where none is here", async () => {
  const told = await run();
  expect(told.map(({ state }) => state)).toEqual(["looking", "pulling", "pulling", "creating", "listening", "said"]);
  expect(calls.find((call) => call.includes("create"))).toContain('"Image":"hello-world:latest"');
});

it("says so where there is no image and no network, and is not glad", async () => {
  pull = "fails";
  const told = await run();
  expect(told.at(-1)).toEqual({ state: "noImage", image: "hello-world", error: "no such host" });
  expect(calls.some((call) => call.includes("create"))).toBe(false);
});

it("tries any image before it gives up", async () => {
  pull = "fails";
  images = [image("mine:1")];
  expect((await run()).at(-1)).toMatchObject({ state: "said", image: "mine:1" });
});

it("a container that ends with an error, or is refused, is no success", async () => {
  images = [image("alpine:3")];
  code = 127;
  output = "echo: not found\n";
  expect((await run()).at(-1)).toEqual({ state: "failed", image: "alpine:3", error: expect.stringContaining("127"), words: ["echo: not found"] });
  refusal = "no space left on device";
  expect((await run()).at(-1)).toMatchObject({ state: "failed", error: "no space left on device" });
});

it("an engine that is gone is told", async () => {
  setBackend({
    engine: async () => {
      throw new BackendError("engine_unreachable", "connection refused");
    },
  } as Partial<Backend> as Backend);
  expect((await run()).at(-1)).toMatchObject({ state: "failed", error: "connection refused" });
});

it("tells nothing after it was left", async () => {
  images = [image("alpine:3")];
  const leave = new AbortController();
  const told: Hello[] = [];
  await hello((state) => {
    told.push(state);
    if (state.state === "creating") leave.abort();
  }, leave.signal);
  expect(told.at(-1)?.state).toBe("creating");
});
