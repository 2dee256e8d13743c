import { AxeBuilder } from "@axe-core/playwright";
import { expect, test, visit, withScript } from "./tally.ts";

const pages = {
  counter: "/",
  "no-session": "/about",
  reset: "/reset",
  "your-session": "/about",
  "not-found": "/nowhere",
};

test.use({ expectedErrors: /status of 404/ });

for (const [name, path] of Object.entries(pages)) {
  for (const colorScheme of ["light", "dark"] as const) {
    test(`${name} in ${colorScheme} is accessible and fits a small screen`, async ({ page }, info) => {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.setViewportSize({ width: 320, height: 640 });
      if (name === "your-session") await visit(page, "/");
      await visit(page, path);
      await page.screenshot({ path: info.outputPath(`${name}-${colorScheme}-320.png`), fullPage: true });
      expect(await page.locator("html").evaluate((root) => root.scrollWidth)).toBeLessThanOrEqual(320);
      await page.setViewportSize({ width: 1280, height: 800 });
      await page.screenshot({ path: info.outputPath(`${name}-${colorScheme}.png`), fullPage: true });
      // The scan runs in the page, so it needs script.
      if (withScript()) expect((await new AxeBuilder({ page }).analyze()).violations).toEqual([]);
    });
  }
}

test("an unknown address is a designed 404", async ({ page }) => {
  const answer = await page.goto("/nowhere");
  expect(answer?.status()).toBe(404);
  await expect(page.getByRole("heading")).toHaveText("This page does not exist");
});
