import { expect, test, visit } from "./tally.ts";

test("a click changes the colours, and the server renders them", async ({ page }) => {
  await visit(page, "/");
  const saved = page.waitForResponse("**/api/theme");
  await page.getByRole("button", { name: "Dark" }).click();
  await saved;
  await expect(page.locator("html")).toHaveAttribute("data-theme", "dark");
  await expect(page.getByRole("button", { name: "Dark" })).toHaveAttribute("aria-pressed", "true");
  await expect(page.locator("body")).toHaveCSS("background-color", "rgb(20, 23, 26)");
  // Choosing colours does not count a visit.
  await expect(page.locator(".count")).toHaveText("Visit count: 1");
  const html = await (await page.request.get("/reset")).text();
  expect(html).toContain('<html lang="en" data-theme="dark">');
});

test("the draft survives a reload", async ({ page }) => {
  await visit(page, "/");
  await visit(page, "/about");
  const field = page.getByLabel("What would you keep");
  await field.fill('Two lines,\nand "<quotes> & signs"');
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.getByText("Saved in your session.")).toBeVisible();
  await visit(page, "/about");
  await expect(field).toHaveValue('Two lines,\nand "<quotes> & signs"');
});

test("visitors see what their session stores, and can delete it", async ({ page, context }) => {
  await visit(page, "/about");
  await expect(page.getByText("Nothing is stored about you.")).toBeVisible();
  await visit(page, "/");
  await visit(page, "/about");
  const facts = page.locator("dl");
  await expect(facts).toContainText("your visit count (1)");
  await expect(facts).toContainText(/in 13 days and 23 hours|in 14 days/);
  await expect(facts).toContainText(/\d+ bytes/);
  await page.getByRole("button", { name: "Extend my session" }).click();
  await expect(facts).toContainText(/in 13 days and 23 hours|in 14 days/);
  await page.getByRole("button", { name: "Delete my session" }).click();
  await expect(page.getByText("Nothing is stored about you.")).toBeVisible();
  // The page may show the event from the stream before the response that deletes the cookie has arrived.
  await expect.poll(() => context.cookies()).toEqual([]);
  expect(new URL(page.url()).pathname).toBe("/about");
});
