import { expect, test, visit } from "./tally.ts";

test("the number changes in place, without loading a document", async ({ page }) => {
  await visit(page, "/");
  await page.evaluate(() => Object.assign(window, { sameDocument: true }));
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 2");
  await page.getByRole("button", { name: "Reset" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 0");
  await page.getByRole("button", { name: "Dark" }).click();
  await expect(page.locator("html")).toHaveAttribute("data-theme", "dark");
  expect(await page.evaluate(() => "sameDocument" in window)).toBe(true);
});

test("hydration requests nothing but the stream", async ({ page }) => {
  const calls: string[] = [];
  page.on("request", (request) => {
    if (request.url().includes("/api/")) calls.push(request.url());
  });
  for (const path of ["/", "/about", "/reset"]) {
    // The page opens the stream after hydration. By then it has made all other requests.
    const stream = page.waitForRequest("**/live");
    await visit(page, path);
    await stream;
  }
  expect(calls).toEqual([]);
});

test("the number changes before the server responds", async ({ page }) => {
  await visit(page, "/");
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  await page.route("**/api/visit", async (route) => {
    await released;
    await route.continue();
  });
  await page.getByRole("button", { name: "Count again" }).click();
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 3");
  await expect(page.locator(".count")).toHaveAttribute("aria-busy", "true");
  release();
  await expect(page.locator(".count")).toHaveAttribute("aria-busy", "false");
  await expect(page.locator(".count")).toHaveText("Visit count: 3");
});

test("going back and forward in the browser's history shows the current count", async ({ page }) => {
  await visit(page, "/");
  await page.getByRole("link", { name: "Your session" }).click();
  await expect(page).toHaveTitle("Your session · Tally");
  await expect(page.getByRole("link", { name: "Your session" })).toHaveAttribute("aria-current", "page");
  await page.goBack();
  // A page from the back/forward cache counts no visit, a reload does.
  await expect(page.locator(".count")).toHaveText(/Visit count: [12]/);
  const count = (await page.locator(".count").textContent()) ?? "";
  await page.goForward();
  await expect(page.locator(".count")).toHaveText(`Current v${count.slice(1)}`);
});

test("quick clicks are all counted, in order", async ({ page }) => {
  await visit(page, "/");
  await page.evaluate(() => {
    const button = document.querySelector<HTMLButtonElement>("button.primary");
    for (let click = 0; click < 10; click++) button?.click();
  });
  await expect(page.locator(".count")).toHaveText("Visit count: 11");
});

test("forms work while WebAssembly is blocked", async ({ browser, server }) => {
  const context = await browser.newContext({ baseURL: server });
  await context.route("**/*.wasm", (route) => route.abort());
  const page = await context.newPage();
  await page.goto("/");
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 2");
  await context.close();
});

test.describe("when the connection fails", () => {
  test.use({ expectedErrors: /Failed to load resource/ });

  test("the page says so, reverts the number, and can try again", async ({ page }) => {
    await visit(page, "/");
    await page.route("**/api/visit", (route) => route.abort());
    await page.getByRole("button", { name: "Count again" }).click();
    await expect(page.getByRole("alert").first()).toHaveText(/not counted. The connection failed/);
    await expect(page.locator(".count")).toHaveText("Visit count: 1");
    await page.unroute("**/api/visit");
    await page.getByRole("button", { name: "Try again" }).click();
    await expect(page.locator(".count")).toHaveText("Visit count: 2");
    await expect(page.getByRole("alert").first()).toBeEmpty();
  });
});
