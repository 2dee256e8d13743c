// The real binary, started once a worker on a free port, and a page that fails on any console error.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { test as base, expect, type Page } from "@playwright/test";

// What was built last, where none is named: `cargo leptos end-to-end` names none.
function lastBuilt(): string {
  const built = ["release", "debug"]
    .map((profile) => resolve(import.meta.dirname, "../../target", profile, "tally"))
    .filter((path) => existsSync(path))
    .sort((left, right) => statSync(right).mtimeMs - statSync(left).mtimeMs);
  if (!built[0]) throw new Error("there is no server to test; build it with: make release");
  return built[0];
}

const binary = process.env.TALLY_BINARY ?? lastBuilt();

async function start(folder: string): Promise<{ process: ChildProcess; url: string }> {
  const process_ = spawn(binary, [], {
    cwd: folder,
    env: { ...process.env, LEPTOS_SITE_ADDR: "127.0.0.1:0", SESSION_STORE: "sqlite://sessions.sqlite3" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: process_.stdout as NodeJS.ReadableStream })) {
    const url = /http:\/\/\S+/.exec(line)?.[0];
    if (url) return { process: process_, url };
  }
  throw new Error(`${binary} ended before it served; build it with: make release`);
}

export const test = base.extend<{ expectedErrors: RegExp[] }, { server: string }>({
  server: [
    async ({}, use) => {
      const folder = mkdtempSync(join(tmpdir(), "tally-"));
      const { process: server, url } = await start(folder);
      await use(url);
      const ended = once(server, "exit");
      server.kill("SIGTERM");
      expect(await ended).toEqual([0, null]);
      rmSync(folder, { recursive: true });
    },
    { scope: "worker" },
  ],
  // What a test provokes on purpose, as the browser words it.
  expectedErrors: [[], { option: true }],
  baseURL: async ({ server }, use) => use(server),
  context: async ({ context, expectedErrors }, use) => {
    const errors: string[] = [];
    context.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) errors.push(message.text());
    });
    context.on("weberror", (error) => errors.push(error.error().message));
    await use(context);
    expect(errors.filter((error) => !expectedErrors.some((expected) => expected.test(error)))).toEqual([]);
  },
});

/** Goes to a page, and with script waits until it listens. */
export async function visit(page: Page, path: string): Promise<void> {
  await page.goto(path);
  await ready(page);
}

/** With script, waits until the page listens. */
export async function ready(page: Page): Promise<void> {
  if (withScript()) await expect(page.locator("html[data-hydrated]")).toBeAttached();
}

export function withScript(): boolean {
  return test.info().project.name === "script";
}

export { expect };
