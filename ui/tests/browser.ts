/** A page of the app in Debian's Chromium, as tests see it. */
import { mkdirSync, existsSync } from "node:fs";
import { AxeBuilder } from "./axe";
import { chromium, type Browser, type Page } from "playwright-core";
import { afterAll, afterEach, expect, inject } from "vitest";
import type { FakeControl } from "../src/backend/fake/fake";

declare global {
  interface Window {
    fake: FakeControl;
  }
}

const CHROMIUM = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
const ARTEFACTS = "test-artefacts";

let browser: Browser | undefined;
const open = new Set<Page>();

export interface OpenOptions {
  /** A scenario of `backend/fake/scenarios.ts`. */
  fake?: string;
  /** What stands after `#/`. */
  at?: string;
  theme?: "light" | "dark";
  size?: { width: number; height: number };
  /** More for the fake: `{ first: "1" }`. */
  query?: Record<string, string>;
}

/** The app, fresh. The test fails if the page logs an error. */
export async function openApp({ fake = "default", at = "", theme = "light", size = { width: 1180, height: 760 }, query = {} }: OpenOptions = {}): Promise<Page> {
  if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is missing: apt-get install chromium, or set CHROMIUM`);
  browser ??= await chromium.launch({
    executablePath: CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const page = await browser.newPage({ viewport: size, locale: "en-GB" });
  page.setDefaultTimeout(10_000);
  open.add(page);
  const errors: string[] = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  failures.set(page, errors);
  await page.goto(`${inject("address")}?${new URLSearchParams({ fake, theme, ...query })}#/${at}`);
  return page;
}

const failures = new Map<Page, string[]>();

afterEach(async () => {
  for (const page of open) {
    const errors = failures.get(page) ?? [];
    await page.close();
    expect(errors).toEqual([]);
  }
  open.clear();
});

afterAll(async () => {
  await browser?.close();
  browser = undefined;
});

/** Kept in `test-artefacts/`, to be looked at. */
export async function picture(page: Page, name: string): Promise<void> {
  mkdirSync(ARTEFACTS, { recursive: true });
  await page.screenshot({ path: `${ARTEFACTS}/${name}.png`, animations: "disabled" });
}

/** What axe finds against WCAG 2.1 A and AA; nothing is excused. */
export async function expectAccessible(page: Page): Promise<void> {
  const found = await new AxeBuilder(page).analyze();
  expect(found.map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target.join(" ")} ${failureSummary ?? ""}`).join(" | ")}`)).toEqual([]);
}
