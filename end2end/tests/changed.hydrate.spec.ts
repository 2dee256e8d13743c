import { expect, test } from "./tally.ts";
import type { Page } from "@playwright/test";

// Hydration panics on what it does not find, and says so.
test.use({ expectedErrors: /.*/ });

/** What translators and extensions do to a document before its script runs. */
const changes: Record<string, (html: string) => string> = {
  "each text is wrapped, as translators do": (html) =>
    html.replace(/>([^<>]*[A-Za-z][^<>]*)</g, "><font>$1</font><"),
  "each text is another one": (html) => html.replace(/>([^<>]*[A-Za-z][^<>]*)</g, ">Übersetzt: $1<"),
  "each form has one element more": (html) =>
    html.replace(/(<form[^>]*>)/g, '$1<span class="extension"></span>'),
  "each button's label is wrapped": (html) =>
    html.replace(/(<button[^>]*>)(.*?)(<\/button>)/g, "$1<font>$2</font>$3"),
  "the body has one element more": (html) => `<div class="extension"></div>${html}`,
};

/** Has the server's pages changed on their way, and waits until the script has taken over or given up. */
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

for (const [what, change] of Object.entries(changes)) {
  test(`a page that was changed before hydration goes on working: ${what}`, async ({ page }) => {
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
    await page.locator('form[action="/api/draft"] button').click();
    await expect(async () => {
      await page.reload();
      expect(await page.locator("textarea").inputValue()).toBe("kept & <safe>");
    }).toPass();
    await settled(page);
    await page.locator('form[action="/api/delete"] button').click();
    await expect(page.locator('form[action="/api/delete"]')).toHaveCount(0);
  });
}
