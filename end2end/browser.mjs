// The Chromium that the tests use: Playwright's own if it is installed, otherwise the system's. As a program this
// prints the path of the browser. With --try it starts the browser instead, and fails if that fails.
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium } from "@playwright/test";

/** @returns {string | undefined} the path of the system's Chromium, if Playwright's own is missing */
export function systemBrowser() {
  if (existsSync(chromium.executablePath())) return undefined;
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders
    .flatMap((folder) => ["chromium", "chromium-browser", "google-chrome"].map((name) => join(folder, name)))
    .find((path) => existsSync(path));
}

/** @returns the launch options of the browser */
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
