import { defineConfig, devices } from "@playwright/test";
import { launchOptions } from "./browser.mjs";

// The same specs run with and without script; what needs script alone stands in *.hydrate.spec.ts.
const chromium = {
  ...devices["Desktop Chrome"],
  launchOptions: launchOptions(),
};

export default defineConfig({
  testDir: "tests",
  fullyParallel: true,
  workers: 2,
  // A machine that is slow fails nothing: what is waited for either comes or never does.
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
