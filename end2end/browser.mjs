// The Chromium that the tests use: Playwright's own where it is installed, else the system's. Run as a
// program it prints which one that is; with --try it starts it, and fails where it can't.
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

/** @returns how the browser is started */
export function launchOptions() {
  return {
    executablePath: systemBrowser(),
    args: [
      ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--disable-quic",
    ],
  };
}

if (process.argv[1]?.endsWith("browser.mjs")) {
  if (process.argv.includes("--try")) await (await chromium.launch(launchOptions())).close();
  else process.stdout.write(systemBrowser() ?? chromium.executablePath());
}
