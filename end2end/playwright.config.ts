import { defineConfig, devices } from "@playwright/test";
import { systemBrowser } from "./browser.mjs";

// The same specs run with and without script; what needs script alone stands in *.hydrate.spec.ts.
const chromium = {
  ...devices["Desktop Chrome"],
  launchOptions: {
    executablePath: systemBrowser(),
    args: [
      ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--disable-quic",
    ],
  },
};

export default defineConfig({
  testDir: "tests",
  fullyParallel: true,
  workers: 2,
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
