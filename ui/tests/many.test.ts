/** A thousand containers. How quick they are is measured in `bench/`. */
import { expect, test } from "vitest";
import { openApp, picture } from "./browser";

test("of 1,000 containers those in sight exist, and all can be scrolled to", async () => {
  const page = await openApp({ fake: "many" });
  await page.getByRole("link", { name: "service-0000" }).waitFor();
  await picture(page, "containers-many-light");
  const table = page.getByRole("table", { name: "Containers" });
  expect(await table.getByRole("row").count()).toBeLessThan(50);
  await table.evaluate((scroller) => (scroller.scrollTop = scroller.scrollHeight));
  // Rows are counted from the top, their head included: nothing comes after the last one.
  const last = await table.getAttribute("aria-rowcount");
  await table.locator(`[role=row][aria-rowindex="${last}"]`).waitFor();
  expect(await page.getByRole("link", { name: "service-0000" }).count()).toBe(0);
  expect(await table.getByRole("row").count()).toBeLessThan(50);
});
