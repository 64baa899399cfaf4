import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts"],
    globalSetup: "tests/app.ts",
    environment: "node",
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // One browser at a time is as many as two processors take.
    fileParallelism: false,
  },
});
