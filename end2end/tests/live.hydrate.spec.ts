import type { BrowserContext, Page } from "@playwright/test";
import { expect, listen, startServer, test, visit } from "./tally.ts";

const count = (page: Page) => page.locator(".count");
const streams = (page: Page) => page.waitForRequest("**/live");

async function withSameCookie(from: BrowserContext, to: BrowserContext, url: string): Promise<void> {
  const cookies = await from.cookies();
  await to.addCookies(cookies.map(({ name, value }) => ({ name, value, url })));
}

test("a visit, a reset and a change of colours show in another tab", async ({ page, context }) => {
  await listen(page, "/");
  const second = await context.newPage();
  await listen(second, "/about");
  await expect(count(second)).toHaveText("Current visit count: 1");
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(count(second)).toHaveText("Current visit count: 2");
  await page.getByRole("button", { name: "Dark" }).click();
  await expect(second.locator("html")).toHaveAttribute("data-theme", "dark");
  await expect(second.getByText("your colours (dark)")).toBeVisible();
  await page.getByRole("button", { name: "Reset" }).click();
  await expect(count(second)).toHaveText("Current visit count: 0");
});

test("a draft typed in one tab shows in the other, but never overwrites what is typed there", async ({
  page,
  context,
}) => {
  await listen(page, "/");
  await listen(page, "/about");
  const second = await context.newPage();
  await listen(second, "/about");
  const field = (page: Page) => page.getByLabel("What would you keep");
  await field(page).pressSequentially("A shopping basket");
  await expect(field(second)).toHaveValue("A shopping basket");
  await expect(second.getByText("your draft (17 characters)")).toBeVisible();
  await field(second).press("End");
  await field(second).pressSequentially(", and more");
  await expect(field(page)).toHaveValue("A shopping basket, and more");
  await page.reload();
  await expect(field(page)).toHaveValue("A shopping basket, and more");
});

test("two browsers with one session show the same count, over two servers", async ({
  browser,
  twoServers,
}) => {
  const [first, second] = [await browser.newContext(), await browser.newContext()];
  const [left, right] = [await first.newPage(), await second.newPage()];
  await listen(left, `${twoServers[0].url}/`);
  await withSameCookie(first, second, twoServers[1].url);
  await listen(right, `${twoServers[1].url}/`);
  await expect(count(left)).toHaveText("Visit count: 2");
  for (const expected of [3, 5, 7]) {
    await left.getByRole("button", { name: "Count again" }).click();
    await expect(count(right)).toHaveText(`Visit count: ${expected}`);
    await right.getByRole("button", { name: "Count again" }).click();
    await expect(count(left)).toHaveText(`Visit count: ${expected + 1}`);
  }
  await right.goto(`${twoServers[1].url}/about`);
  await right.getByRole("button", { name: "Delete my session" }).click();
  await expect(left.getByText("Your session has ended")).toBeVisible();
  await expect(count(left)).toHaveText("Visit count: 0");
  await first.close();
  await second.close();
});

test("deleting the session in one tab shows in the others, and leaves nothing behind", async ({
  page,
  context,
}) => {
  await listen(page, "/");
  const second = await context.newPage();
  await listen(second, "/about");
  const response = second.waitForResponse("**/api/delete");
  await second.getByRole("button", { name: "Delete my session" }).click();
  expect(await (await response).headerValue("clear-site-data")).toBe('"cookies", "storage"');
  await expect(second.getByText("Nothing is stored about you.")).toBeVisible();
  await expect(page.getByText("Your session has ended")).toBeVisible();
  await expect(count(page)).toHaveText("Visit count: 0");
  expect(await context.cookies()).toEqual([]);
  // The next visit starts a new session.
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(count(page)).toHaveText("Visit count: 1");
  await expect(page.getByText("Your session has ended")).toBeHidden();
});

test.describe("when the server restarts", () => {
  test.use({ expectedErrors: /Failed to load resource|ERR_/ });

  test("open tabs reconnect and show the newest state", async ({ browser, folder }) => {
    const store = "sqlite://sessions.sqlite3";
    let server = await startServer(folder, "127.0.0.1:0", store);
    const context = await browser.newContext();
    const page = await context.newPage();
    await listen(page, `${server.url}/`);
    await server.stop();
    await page.getByRole("button", { name: "Count again" }).click();
    await expect(page.getByRole("alert").first()).toHaveText(/not counted/);
    await expect(count(page)).toHaveText("Visit count: 1");
    const stream = page.waitForResponse("**/live");
    server = await startServer(folder, new URL(server.url).host, store);
    await stream;
    // A change by another client shows in the tab.
    const other = await browser.newContext();
    await withSameCookie(context, other, server.url);
    await (await other.newPage()).goto(`${server.url}/`);
    await expect(count(page)).toHaveText("Visit count: 2");
    await page.getByRole("button", { name: "Try again" }).click();
    await expect(count(page)).toHaveText("Visit count: 3");
    await context.close();
    await other.close();
    await server.stop();
  });

  test("the page says that it is offline, and recovers when it is online again", async ({
    page,
    context,
  }) => {
    await listen(page, "/");
    await context.setOffline(true);
    await expect(page.getByText("You are offline.").first()).toBeVisible();
    await page.getByRole("button", { name: "Count again" }).click();
    await expect(page.getByRole("alert").first()).toHaveText(/This visit was not counted. You are offline./);
    await expect(count(page)).toHaveText("Visit count: 1");
    const stream = streams(page);
    await context.setOffline(false);
    await stream;
    await page.getByRole("button", { name: "Try again" }).click();
    await expect(count(page)).toHaveText("Visit count: 2");
  });
});

test("a hidden tab holds no stream, and catches up when it is shown", async ({ page, context }) => {
  const hide = (hidden: boolean) =>
    page.evaluate((hidden) => {
      Object.defineProperty(document, "visibilityState", {
        value: hidden ? "hidden" : "visible",
        configurable: true,
      });
      document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
    }, hidden);
  await listen(page, "/");
  const closed = page.waitForEvent("requestfailed", (request) => request.url().endsWith("/live"));
  await hide(true);
  await closed;
  const second = await context.newPage();
  await visit(second, "/");
  await expect(count(page)).toHaveText("Visit count: 1");
  await hide(false);
  await expect(count(page)).toHaveText("Visit count: 2");
});

test("the page warns before the session ends, and one click extends it", async ({ browser, folder }) => {
  const server = await startServer(folder, "127.0.0.1:0", "memory:", { SESSION_COOKIE_AGE: "100" });
  const context = await browser.newContext();
  const page = await context.newPage();
  await listen(page, `${server.url}/`);
  await listen(page, `${server.url}/about`);
  await expect(page.getByText("Your session is about to end.")).toBeVisible();
  const remaining = page.getByRole("timer");
  const seconds = async () =>
    Number(/^\D*1 minute and (\d+) seconds/.exec((await remaining.textContent()) ?? "")?.[1]);
  await expect.poll(seconds).toBeLessThanOrEqual(37);
  await page.getByRole("main").getByRole("button", { name: "Extend my session" }).first().click();
  await expect(remaining).toContainText(/1 minute and (39|40) seconds/);
  await context.close();
  await server.stop();
});

test("a visitor without a session opens no stream", async ({ page }) => {
  const requested: string[] = [];
  page.on("request", (request) => requested.push(new URL(request.url()).pathname));
  await visit(page, "/about");
  await page.getByRole("link", { name: "Counter" }).click();
  await expect(count(page)).toHaveText("Visit count: 1");
  // The first visit creates the session. There is nothing to subscribe to before.
  await expect.poll(() => requested.filter((path) => path === "/live").length).toBe(1);
  expect(requested.lastIndexOf("/")).toBeLessThan(requested.indexOf("/live"));
});

test("behind a proxy that buffers the stream, the page works and reconnects ever more slowly", async ({
  page,
}) => {
  await page.clock.install();
  // The fake clock runs faster than requests leave the browser, so the page itself counts its attempts.
  await page.addInitScript(() => {
    const counter = Object.assign(window, { attempts: 0 });
    window.EventSource = class extends EventSource {
      constructor(url: string | URL) {
        super(url);
        counter.attempts++;
      }
    };
  });
  const attempts = () => page.evaluate(() => (window as unknown as { attempts: number }).attempts);
  await page.route("**/live", () => undefined);
  await visit(page, "/");
  await expect.poll(attempts).toBe(1);
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(count(page)).toHaveText("Visit count: 2");
  await page.clock.runFor("10:00");
  await expect.poll(attempts).toBeGreaterThan(5);
  // Each attempt times out after 25 seconds, and the delay before the next one grows to a minute.
  expect(await attempts()).toBeLessThan(20);
});
