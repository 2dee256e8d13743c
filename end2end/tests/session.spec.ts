import { expect, test, visit } from "./tally.ts";

test("the colours are chosen by a click and rendered by the server", async ({ page }) => {
  await visit(page, "/");
  const kept = page.waitForResponse("**/api/theme");
  await page.getByRole("button", { name: "Dark" }).click();
  await kept;
  await expect(page.locator("html")).toHaveAttribute("data-theme", "dark");
  await expect(page.getByRole("button", { name: "Dark" })).toHaveAttribute("aria-pressed", "true");
  await expect(page.locator("body")).toHaveCSS("background-color", "rgb(20, 23, 26)");
  // Choosing is no visit.
  await expect(page.locator(".count")).toHaveText("Visit count: 1");
  const html = await (await page.request.get("/reset")).text();
  expect(html).toContain('<html lang="en" data-theme="dark">');
});

test("the draft survives a reload", async ({ page }) => {
  await visit(page, "/");
  await visit(page, "/about");
  const field = page.getByLabel("What would you keep");
  await field.fill('Two lines,\nand "<quotes> & signs"');
  await page.getByRole("button", { name: "Keep it" }).click();
  await expect(page.getByText("Kept in your session.")).toBeVisible();
  await visit(page, "/about");
  await expect(field).toHaveValue('Two lines,\nand "<quotes> & signs"');
});

test("the visitor sees what is kept, and ends it", async ({ page, context }) => {
  await visit(page, "/about");
  await expect(page.getByText("Nothing is kept about you.")).toBeVisible();
  await visit(page, "/");
  await visit(page, "/about");
  const facts = page.locator("dl");
  await expect(facts).toContainText("your visit count (1)");
  await expect(facts).toContainText(/in 13 days and 23 hours|in 14 days/);
  await expect(facts).toContainText(/\d+ bytes/);
  await page.getByRole("button", { name: "Extend my session" }).click();
  await expect(facts).toContainText(/in 13 days and 23 hours|in 14 days/);
  await page.getByRole("button", { name: "Delete my session" }).click();
  await expect(page.getByText("Nothing is kept about you.")).toBeVisible();
  // What the page shows may be the stream's news, before the answer that takes the cookie away.
  await expect.poll(() => context.cookies()).toEqual([]);
  expect(new URL(page.url()).pathname).toBe("/about");
});
