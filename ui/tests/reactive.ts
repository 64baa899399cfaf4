/** An environment for unit tests: Node without a page, and Svelte as in a browser (its other half, for servers, never reacts). */
import type { Environment } from "vitest/runtime";

export default {
  name: "reactive",
  viteEnvironment: "client",
  setup: () => ({ teardown: () => undefined }),
} satisfies Environment;
