import { expect, test, visit } from "./tally.ts";

test("the number moves in place, without another document", async ({ page }) => {
  await visit(page, "/");
  await page.evaluate(() => Object.assign(window, { sameDocument: true }));
  await page.getByRole("button", { name: "Count again" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 2");
  await page.getByRole("link", { name: "Cookie test" }).click();
  await expect(page.getByText("Cookie Tested!")).toBeVisible();
  await page.getByRole("link", { name: "Counter" }).click();
  await expect(page.locator(".count")).toHaveText("Visit count: 3");
  expect(await page.evaluate(() => "sameDocument" in window)).toBe(true);
});

test("hydration asks the server nothing", async ({ page }) => {
  const calls: string[] = [];
  page.on("request", (request) => {
    if (request.url().includes("/api/")) calls.push(request.url());
  });
  for (const path of ["/", "/about", "/reset"]) {
    await visit(page, path);
    await page.waitForLoadState("networkidle");
  }
  expect(calls).toEqual([]);
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
  test.use({ expectedErrors: [/Failed to load resource/] });

  test("the page says so and stays", async ({ page }) => {
    await visit(page, "/");
    await page.route("**/api/visit", (route) => route.abort());
    await page.getByRole("button", { name: "Count again" }).click();
    await expect(page.getByRole("alert")).toHaveText(/connection failed/);
    await expect(page.locator(".count")).toHaveText("Visit count: 1");
  });
});
