import { svelte } from "@sveltejs/vite-plugin-svelte";
import { configDefaults, defineConfig } from "vitest/config";

const REACTIVE = "src/**/*.svelte.test.ts";

export default defineConfig({
  plugins: [svelte()],
  test: {
    projects: [
      { extends: true, test: { name: "node", include: ["src/**/*.test.ts"], exclude: [...configDefaults.exclude, REACTIVE] } },
      // Without the condition Node finds Svelte's half for servers.
      { extends: true, resolve: { conditions: ["browser"] }, test: { name: "reactive", include: [REACTIVE], environment: "./tests/reactive.ts" } },
    ],
  },
});
