import { expect, fitsAndIsAccessible, test, visit } from "./tally.ts";

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
    test(`${name} in ${colorScheme} is accessible and fits a small screen`, async ({ page }) => {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      // Load the page on a small screen from the start.
      await page.setViewportSize({ width: 320, height: 640 });
      if (name === "your-session") await visit(page, "/");
      await visit(page, path);
      await fitsAndIsAccessible(page, `${name}-${colorScheme}`);
    });
  }
}

test("an unknown path has a 404 page of its own", async ({ page }) => {
  const response = await page.goto("/nowhere");
  expect(response?.status()).toBe(404);
  await expect(page.getByRole("heading")).toHaveText("This page does not exist");
});
