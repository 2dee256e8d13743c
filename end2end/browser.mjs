// Prints the Chromium that the tests use: Playwright's own where it is installed, else the system's.
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium } from "@playwright/test";

/** @returns {string | undefined} the system's Chromium, where Playwright's own is missing */
export function systemBrowser() {
  if (existsSync(chromium.executablePath())) return undefined;
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders
    .flatMap((folder) => ["chromium", "chromium-browser", "google-chrome"].map((name) => join(folder, name)))
    .find((path) => existsSync(path));
}

if (process.argv[1]?.endsWith("browser.mjs")) {
  process.stdout.write(systemBrowser() ?? chromium.executablePath());
}
