import { expect, test } from "./tally.ts";
import type { Page } from "@playwright/test";

// Hydration panics if an element is missing, and logs the panic to the console.
test.use({ expectedErrors: /.*/ });

/** Changes that translators and extensions make to a document before its script runs. */
const changes: Record<string, (html: string) => string> = {
  "each text is wrapped in an element": (html) =>
    html.replace(/>([^<>]*[A-Za-z][^<>]*)</g, "><font>$1</font><"),
  "each text is replaced": (html) => html.replace(/>([^<>]*[A-Za-z][^<>]*)</g, ">Übersetzt: $1<"),
  "each form has an additional element": (html) =>
    html.replace(/(<form[^>]*>)/g, '$1<span class="extension"></span>'),
  "each button's label is wrapped": (html) =>
    html.replace(/(<button[^>]*>)(.*?)(<\/button>)/g, "$1<font>$2</font>$3"),
  "the body has an additional element": (html) => `<div class="extension"></div>${html}`,
};

/** Changes documents on their way to the browser, and waits until the page is hydrated or has panicked. */
async function visitChanged(page: Page, path: string, change: (html: string) => string): Promise<void> {
  await page.route("**/*", async (route) => {
    if (route.request().resourceType() !== "document") return route.continue();
    const response = await route.fetch({ maxRedirects: 0 });
    const html = await response.text();
    const body = html.indexOf("<body>") + "<body>".length;
    await route.fulfill({ response, body: html.slice(0, body) + change(html.slice(body)) });
  });
  await page.goto(path);
  await settled(page);
}

async function settled(page: Page): Promise<void> {
  await expect(page.locator("html[data-hydrated], html[data-broken]").first()).toBeAttached();
}

const number = (page: Page) => page.locator(".number").first();

for (const [description, change] of Object.entries(changes)) {
  test(`a page works even if it was changed before hydration: ${description}`, async ({ page }) => {
    await visitChanged(page, "/", change);
    await expect(number(page)).toHaveText("1");
    for (const count of ["2", "3"]) {
      await page.locator('form[action="/api/visit"] button').click();
      await expect(number(page)).toHaveText(count);
      await settled(page);
    }
    await page.locator('form[action="/api/theme"] button').nth(2).click();
    await expect(page.locator("html")).toHaveAttribute("data-theme", "dark");
    await settled(page);
    await page.locator('form[action="/api/reset"] button').click();
    await expect(number(page)).toHaveText("0");
    await settled(page);
    await page.locator('a[href="/about"]').first().click();
    await expect(page).toHaveURL(/\/about$/);
    await settled(page);
    await page.locator("textarea").fill("kept & <safe>");
    const saved = page.waitForResponse("**/api/draft");
    await page.locator('form[action="/api/draft"] button').click();
    // A reload would abort the request.
    await saved;
    await expect(async () => {
      await page.reload();
      expect(await page.locator("textarea").inputValue()).toBe("kept & <safe>");
    }).toPass();
    await settled(page);
    await page.locator('form[action="/api/delete"] button').click();
    await expect(page.locator('form[action="/api/delete"]')).toHaveCount(0);
  });
}
