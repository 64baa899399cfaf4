import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

/**
 * Two builds of the same pages: `vite build` for the desktop shell, and `vite build --mode fake` on a back end
 * in memory, which the browser tests look at.
 */
export default defineConfig(({ mode }) => ({
  plugins: [svelte()],
  base: "./",
  clearScreen: false,
  server: { host: "127.0.0.1", port: 5173, strictPort: true },
  build: {
    outDir: mode === "fake" ? "test-artefacts/app" : "dist",
    // What WebKitGTK 2.40 of Debian 12, WKWebView of macOS 13 and WebView2 have in common.
    target: ["safari16.4", "chrome110"],
    modulePreload: { polyfill: false },
  },
}));
