import { expect, test, visit } from "./tally.ts";

test("the number moves in place, without another document", async ({ page }) => {
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

test("hydration asks the server for nothing but news", async ({ page }) => {
  const calls: string[] = [];
  page.on("request", (request) => {
    if (request.url().includes("/api/")) calls.push(request.url());
  });
  for (const path of ["/", "/about", "/reset"]) {
    // The stream begins when hydration is over: whatever it asks for has been asked by then.
    const news = page.waitForRequest("**/live");
    await visit(page, path);
    await news;
  }
  expect(calls).toEqual([]);
});

test("the number moves before the server answers", async ({ page }) => {
  await visit(page, "/");
  let answer = (): void => undefined;
  const held = new Promise<void>((resolve) => (answer = resolve));
  await page.route("**/api/visit", async (route) => {
    await held;
    await route.continue();
  });
  await page.getByRole("button", { name: "Count again" }).click();
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 3");
  await expect(page.locator(".count")).toHaveAttribute("aria-busy", "true");
  answer();
  await expect(page.locator(".count")).toHaveAttribute("aria-busy", "false");
  await expect(page.locator(".count")).toHaveText("Visit count: 3");
});

test("a page that the browser's own buttons bring back is in step", async ({ page }) => {
  await visit(page, "/");
  await page.getByRole("link", { name: "Your session" }).click();
  await expect(page).toHaveTitle("Your session · Tally");
  await expect(page.getByRole("link", { name: "Your session" })).toHaveAttribute("aria-current", "page");
  await page.goBack();
  // A page that the browser has kept is as it was; one that it loads again is a visit.
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

test("with WebAssembly blocked, forms do the work", async ({ browser, server }) => {
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

  test("the page says so, puts the number back and tries again", async ({ page }) => {
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
