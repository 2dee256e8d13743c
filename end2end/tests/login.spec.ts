// The example `login` of tally-session: users and their devices, without JavaScript.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import type { Page } from "@playwright/test";
import { expect, fitsAndIsAccessible, test as base } from "./tally.ts";

const example = resolve(import.meta.dirname, "../../target/debug/examples/login");

async function start(folder: string): Promise<[string, ChildProcess]> {
  const environment = {
    ADDRESS: "127.0.0.1:0",
    SESSION_STORE: "memory:",
    DATABASE_URL: `sqlite://${join(folder, "users.sqlite")}?mode=rwc`,
  };
  const shop = spawn(example, [], { env: environment, stdio: ["ignore", "pipe", "inherit"] });
  for await (const line of createInterface({ input: shop.stdout as NodeJS.ReadableStream }))
    return [line, shop];
  throw new Error(`${example} ended before it served; build it with: make e2e`);
}

const test = base.extend<{ shop: string }>({
  shop: async ({ folder, context }, use) => {
    const [url, shop] = await start(folder);
    await use(url);
    for (const page of context.pages()) await page.close();
    const exit = once(shop, "exit");
    shop.kill();
    await exit;
  },
});

// A wrong password gets status 401.
test.use({ expectedErrors: /status of 401/ });

async function enter(page: Page, password: string): Promise<void> {
  await page.getByLabel("Name").fill("ada");
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Go on" }).click();
}

test("a guest signs up with a cart, and signs out another device", async ({ page, browser, shop }) => {
  await page.goto(shop);
  await page.getByLabel("Item").fill("tea <green>");
  await page.getByRole("button", { name: "Put into the cart" }).click();
  await page.getByRole("link", { name: "sign up" }).click();
  await enter(page, "lovelace");
  await expect(page.getByText("Hello ada.")).toBeVisible();
  await expect(page.getByRole("listitem")).toHaveText("tea <green>");

  const phone = await browser.newContext({ javaScriptEnabled: false });
  const other = await phone.newPage();
  await other.goto(`${shop}/devices`);
  await enter(other, "byron");
  await expect(other.getByRole("alert")).toHaveText("Wrong name or password.");
  await enter(other, "lovelace");
  await expect(other.getByRole("heading", { level: 1 })).toHaveText("My devices");
  await other.goto(shop);
  await expect(other.getByRole("listitem")).toHaveCount(0);

  await page.getByRole("link", { name: "My devices" }).click();
  await expect(page.getByRole("row")).toHaveCount(3);
  await fitsAndIsAccessible(page, "devices");
  await page.getByRole("button", { name: "Sign out", exact: true }).click();
  await expect(page.getByRole("status")).toHaveText("It is signed out.");
  await expect(page.getByRole("row")).toHaveCount(2);
  await other.goto(`${shop}/devices`);
  await expect(other.getByRole("heading", { level: 1 })).toHaveText("Sign in");

  await enter(other, "lovelace");
  await page.getByLabel("New password").fill("difference engine");
  await page.getByRole("button", { name: /^Change it/ }).click();
  await expect(page.getByRole("status")).toHaveText("The password has changed.");
  await other.goto(`${shop}/devices`);
  await enter(other, "lovelace");
  await expect(other.getByRole("alert")).toHaveText("Wrong name or password.");
  await enter(other, "difference engine");
  await expect(other.getByRole("heading", { level: 1 })).toHaveText("My devices");
  await phone.close();
});
