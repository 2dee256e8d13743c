import { expect, test, visit } from "./tally.ts";

test("each load of the counter counts one visit", async ({ page }) => {
  await visit(page, "/");
  await expect(page.locator(".count")).toHaveText("Visit count: 1");
  await visit(page, "/");
  await expect(page.locator(".count")).toHaveText("Visit count: 2");
});

test("going back to the counter counts one visit", async ({ page }) => {
  await visit(page, "/");
  await page.getByRole("link", { name: "Your session" }).click();
  await expect(page.locator(".count")).toHaveText("Current visit count: 1");
  await page.getByRole("link", { name: "Counter" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 2");
});

test("the buttons count once more and reset", async ({ page }) => {
  await visit(page, "/");
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 2");
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 3");
  await page.getByRole("button", { name: "Reset" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 0");
  expect(new URL(page.url()).pathname).toBe("/");
});

test("two tabs share one session", async ({ page, context }) => {
  await visit(page, "/");
  const second = await context.newPage();
  await visit(second, "/");
  await expect(second.locator(".count")).toHaveText("Visit count: 2");
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 3");
  await visit(second, "/about");
  await expect(second.locator(".count")).toHaveText("Current visit count: 3");
});

test("the cookie test passes once, after a visit to the counter", async ({ page }) => {
  await visit(page, "/");
  await visit(page, "/about");
  await expect(page.getByText("Cookie Tested!")).toBeVisible();
  await expect(page.locator(".count")).toHaveText("Current visit count: 1");
  await visit(page, "/about/");
  await expect(page.getByText("Cookie not set or not supported")).toBeVisible();
  await expect(page.locator(".count")).toHaveText("Current visit count: 1");
});

test("without cookies the cookie test fails and each visit is the first", async ({ page, context }) => {
  for (const path of ["/", "/"]) {
    await visit(page, path);
    await expect(page.locator(".count")).toHaveText("Visit count: 1");
    await context.clearCookies();
  }
  await visit(page, "/about");
  await expect(page.getByText("Cookie not set or not supported")).toBeVisible();
  await expect(page.locator(".count")).toHaveText("Current visit count: 0");
});

test("the reset page sets the count to 0", async ({ page }) => {
  await visit(page, "/");
  await visit(page, "/reset/");
  await expect(page.getByText("Visit count has been reset to 0")).toBeVisible();
  await visit(page, "/about");
  await expect(page.locator(".count")).toHaveText("Current visit count: 0");
});

test("everything can be reached and used with the keyboard", async ({ page }) => {
  await visit(page, "/");
  const reached: (string | null)[] = [];
  for (let step = 0; step < 10; step++) {
    await page.keyboard.press("Tab");
    reached.push(await page.locator(":focus").textContent());
    await expect(page.locator(":focus")).toHaveCSS("outline-style", "solid");
  }
  expect(reached).toEqual([
    "Skip to content",
    "Tally",
    "Counter",
    "Your session",
    "Reset",
    "Count again",
    "Reset",
    "System",
    "Light",
    "Dark",
  ]);
  for (let step = 0; step < 4; step++) await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await expect(page.locator(".count")).toHaveText("Visit count: 2");
});
