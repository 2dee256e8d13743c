import type { Page } from "@playwright/test";
import { expect, listen, signIn, test, visit } from "./tally.ts";

const tile = (page: Page, name: string) =>
  page.locator(".tiles div").filter({ hasText: name }).getByRole("definition");

test("the overview follows the activity on all servers", async ({ page, browser, twoConsoles }) => {
  const [first, second] = twoConsoles;
  await signIn(page, first.url);
  await expect(tile(page, "visits today")).toHaveText("0");
  await page.locator("summary", { hasText: "The numbers" }).first().click();
  const visitor = await browser.newContext();
  const tab = await visitor.newPage();
  await visit(tab, `${second.url}/`);
  for (const expected of [2, 3, 4]) {
    await tab.getByRole("button", { name: "Count again" }).click();
    await expect(tab.locator(".count")).toHaveText(`Visit count: ${expected}`);
  }
  await expect(tile(page, "visits today")).toHaveText("4");
  await expect(tile(page, "active sessions today")).toHaveText("2");
  await expect(tile(page, "sessions alive")).toHaveText("2");
  // An opened table stays open when its numbers change.
  await expect(page.getByRole("table", { name: "Visits per minute" })).toBeVisible();
  await expect(page.locator('[data-part="counter-0-minutes"] rect')).not.toHaveCount(0);
  await visitor.close();
});

test("an open tab shows at once that its session has been revoked", async ({
  page,
  browser,
  twoConsoles,
}) => {
  const [first, second] = twoConsoles;
  const visitor = await browser.newContext();
  const tab = await visitor.newPage();
  await listen(tab, `${second.url}/`);
  await signIn(page, first.url);
  await expect(tile(page, "sessions alive")).toHaveText("2");
  await page.getByRole("link", { name: "Sessions" }).click();
  await page
    .getByRole("button", { name: /^Revoke / })
    .first()
    .click();
  await expect(page.getByRole("status")).toContainText("has been revoked");
  await expect(tab.getByText("Your session has ended")).toBeVisible();
  await expect(tab.locator(".count")).toHaveText("Visit count: 0");
  await tab.getByRole("button", { name: "Count again" }).click();
  await expect(tab.locator(".count")).toHaveText("Visit count: 1");
  await visitor.close();
});

test("an open console says that its sign-in has ended", async ({ page, browser, twoConsoles }) => {
  const [first, second] = twoConsoles;
  await signIn(page, first.url);
  const elsewhere = await browser.newContext();
  const other = await elsewhere.newPage();
  await signIn(other, second.url);
  await other.getByRole("button", { name: "Sign out everywhere" }).click();
  await expect(page.getByRole("alert")).toHaveText(/You are no longer signed in/);
  await page.getByRole("link", { name: "Sign in again" }).click();
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("Sign in");
  await elsewhere.close();
});

test("a visitor's pages load nothing of the console", async ({ page, consoleServer }) => {
  const bodies: Promise<string>[] = [];
  page.on("response", (response) => {
    // The response of the stream never ends.
    if (!response.url().endsWith("/live")) bodies.push(response.text().catch(() => ""));
  });
  await visit(page, `${consoleServer.url}/`);
  await visit(page, `${consoleServer.url}/about`);
  const all = (await Promise.all(bodies.slice())).join("\n");
  expect(all).toContain("Tally");
  for (const word of ["admin", "Tally console", "data-part", "Revoke"]) expect(all).not.toContain(word);
});
