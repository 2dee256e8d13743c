import type { Page } from "@playwright/test";
import { expect, fitsAndIsAccessible, password, signIn, test, tryPassword } from "./tally.ts";

// A wrong password is answered with 403, too many attempts with 429, and a missing page with 404.
test.use({ expectedErrors: /status of (403|429|404)/ });

const heading = (page: Page) => page.getByRole("heading", { level: 1 });

test("without a password in the settings there is no console", async ({ page }) => {
  const response = await page.goto("/admin");
  expect(response?.status()).toBe(404);
  await expect(page.getByRole("heading")).toHaveText("This page does not exist");
});

test("the operator signs in, out, and out everywhere", async ({ page, browser, consoleServer }) => {
  const { url } = consoleServer;
  await page.goto(`${url}/`);
  const before = (await page.context().cookies())[0]?.value;
  await page.goto(`${url}/admin/sessions`);
  await expect(heading(page)).toHaveText("Sign in");
  await tryPassword(page, "incorrect horse battery staple");
  await expect(page.getByRole("alert").first()).toHaveText("Wrong password.");
  await tryPassword(page, password);
  await expect(heading(page)).toHaveText("Overview");
  expect((await page.context().cookies())[0]?.value).not.toBe(before);
  // The state of the visitor's session survives the sign-in.
  await page.goto(`${url}/about`);
  await expect(page.locator(".count")).toHaveText("Current visit count: 1");
  await page.goto(`${url}/admin`);
  await page.getByRole("button", { name: "Sign out", exact: true }).click();
  await expect(page.getByRole("status")).toHaveText("You have signed out.");
  await expect(heading(page)).toHaveText("Sign in");
  await page.reload();
  await expect(page.getByRole("status")).toBeHidden();
  const elsewhere = await browser.newContext();
  const other = await elsewhere.newPage();
  await signIn(other, url);
  await signIn(page, url);
  await other.getByRole("button", { name: "Sign out everywhere" }).click();
  await expect(other.getByRole("status")).toHaveText("You have signed out everywhere.");
  await page.goto(`${url}/admin/sessions`);
  await expect(page.getByRole("alert").first()).toContainText("somebody signed out everywhere");
  await expect(heading(page)).toHaveText("Sign in");
  await elsewhere.close();
});

test("the operator signs out another browser", async ({ page, browser, consoleServer }) => {
  const { url } = consoleServer;
  const elsewhere = await browser.newContext();
  const other = await elsewhere.newPage();
  await signIn(other, url);
  await signIn(page, url);
  await page.getByRole("link", { name: "Your sign-ins" }).click();
  await expect(heading(page)).toHaveText("Your sign-ins");
  await expect(page.getByRole("row")).toHaveCount(3);
  await fitsAndIsAccessible(page, "sign-ins");
  await page
    .getByRole("row")
    .getByRole("button", { name: /^Sign out / })
    .click();
  await expect(page.getByRole("status")).toHaveText("That browser is signed out.");
  await expect(page.getByRole("row")).toHaveCount(2);
  await other.goto(`${url}/admin/sessions`);
  await expect(heading(other)).toHaveText("Sign in");
  await elsewhere.close();
});

test("password attempts are rate limited", async ({ page, consoleServer }) => {
  await page.goto(`${consoleServer.url}/admin`);
  for (let attempt = 0; attempt < 5; attempt++) {
    await tryPassword(page, `wrong ${attempt}`);
    await expect(page.getByRole("alert").first()).toHaveText("Wrong password.");
  }
  await tryPassword(page, password);
  await expect(page.getByRole("alert").first()).toHaveText(/Too many attempts/);
  await expect(heading(page)).toHaveText("Sign in");
});

test("a session can be found, inspected and revoked", async ({ page, browser, consoleServer }) => {
  const { url } = consoleServer;
  const visitor = await browser.newContext();
  const victim = await visitor.newPage();
  await victim.goto(`${url}/`);
  await victim.goto(`${url}/`);
  await expect(victim.locator(".count")).toHaveText("Visit count: 2");
  await signIn(page, url);
  await page.getByRole("link", { name: "Sessions" }).click();
  const row = page.getByRole("row").filter({ has: page.getByRole("button", { name: /^Revoke / }) });
  await expect(row).toHaveCount(1);
  await expect(row.getByRole("cell").nth(2)).toHaveText("2");
  const shortId = (await row.getByRole("link").textContent()) ?? "";
  await page.getByLabel("Short id").fill(shortId.slice(0, 4));
  await page.getByRole("button", { name: "Search" }).click();
  await page.getByRole("link", { name: shortId }).click();
  const field = page.getByRole("row").filter({ hasText: "visits" });
  await expect(field).toContainText("••••••");
  await page.getByRole("button", { name: "Show the values" }).click();
  await expect(field).toContainText("2");
  await page.getByRole("button", { name: `Revoke ${shortId}` }).click();
  await expect(page.getByRole("status")).toHaveText(`The session ${shortId} has been revoked.`);
  await victim.goto(`${url}/`);
  await expect(victim.locator(".count")).toHaveText("Visit count: 1");
  await page.goto(`${url}/admin/sessions/${shortId}`);
  await expect(heading(page)).toHaveText("Not found");
  await visitor.close();
});

test("all sessions except the operator's can be revoked", async ({ page, browser, consoleServer }) => {
  const { url } = consoleServer;
  const visitors = await Promise.all(
    [1, 2, 3].map(async () => {
      const visitor = await browser.newContext();
      await (await visitor.newPage()).goto(`${url}/`);
      return visitor;
    }),
  );
  await signIn(page, url);
  await page.getByRole("link", { name: "Sessions" }).click();
  await page.getByText("Revoke all sessions but mine").click();
  await page.getByRole("button", { name: "Revoke them all" }).click();
  await expect(page.getByRole("status")).toHaveText("3 sessions revoked.");
  await expect(page.getByText("yours")).toBeVisible();
  await expect(page.getByText("Page 1 of 1, 1 session")).toBeVisible();
  for (const visitor of visitors) await visitor.close();
});

test("a chart has a table of its numbers", async ({ page, consoleServer }) => {
  await page.goto(`${consoleServer.url}/`);
  await signIn(page, consoleServer.url);
  await expect(page.getByRole("img", { name: "Visits per minute, as a chart" })).toBeVisible();
  await expect(page.getByText("keeps no counts")).toBeVisible();
  await page.locator("summary", { hasText: "The numbers" }).first().click();
  const table = page.getByRole("table", { name: "Visits per minute" });
  await expect(table.getByRole("row")).toHaveCount(61);
});

for (const colorScheme of ["light", "dark"] as const) {
  test(`the console in ${colorScheme} is accessible and fits a small screen`, async ({
    page,
    consoleServer,
  }) => {
    const { url } = consoleServer;
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await page.goto(`${url}/admin`);
    await fitsAndIsAccessible(page, "sign-in");
    await signIn(page, url);
    for (const summary of await page.locator("summary", { hasText: "The numbers" }).all())
      await summary.click();
    await fitsAndIsAccessible(page, "overview");
    await page.getByRole("link", { name: "Sessions" }).click();
    await page.getByText("Revoke all sessions but mine").click();
    await fitsAndIsAccessible(page, "sessions");
    await page.locator("tbody").getByRole("link").first().click();
    await expect(heading(page)).toHaveText("Session");
    await fitsAndIsAccessible(page, "session");
  });
}
