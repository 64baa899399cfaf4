/** Builds the app on the fake back end and serves it, once for all browser tests. */
import { build, preview } from "vite";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    address: string;
  }
}

export default async function (project: TestProject): Promise<() => Promise<void>> {
  await build({ mode: "fake", logLevel: "warn" });
  const server = await preview({ mode: "fake", logLevel: "warn", preview: { host: "127.0.0.1", port: 0 } });
  const address = server.resolvedUrls?.local[0];
  if (!address) throw new Error("vite's preview server has no address");
  project.provide("address", address);
  return () => server.close();
}
