import { defineConfig, devices } from "@playwright/test";
import { launchOptions } from "./browser.mjs";

// Specs run with and without JavaScript. Those that need JavaScript are named *.hydrate.spec.ts.
const chromium = {
  ...devices["Desktop Chrome"],
  launchOptions: launchOptions(),
};

export default defineConfig({
  testDir: "tests",
  fullyParallel: true,
  workers: 2,
  // Long timeouts, so that no test fails because the machine is slow.
  timeout: 180_000,
  expect: { timeout: 30_000 },
  forbidOnly: !!process.env.CI,
  reporter: [["list"], ["html", { open: "never" }]],
  use: { trace: "retain-on-failure" },
  projects: [
    { name: "script", use: chromium },
    {
      name: "no-script",
      testIgnore: /\.hydrate\.spec\.ts$/,
      use: { ...chromium, javaScriptEnabled: false },
    },
  ],
});
