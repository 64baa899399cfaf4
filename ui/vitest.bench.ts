import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["bench/**/*.test.ts"],
    globalSetup: "tests/app.ts",
    environment: "node",
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // One browser at a time is all that is measured.
    fileParallelism: false,
  },
});
