// Test fixtures: a server for each worker, on a free port, and a browser context that fails on console errors.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { AxeBuilder } from "@axe-core/playwright";
import { type BrowserContext, test as base, expect, type Page } from "@playwright/test";

// `cargo leptos end-to-end` does not set TALLY_BINARY. Then the tests use the last build.
function lastBuilt(): string {
  const built = ["release", "debug"]
    .map((profile) => resolve(import.meta.dirname, "../../target", profile, "tally"))
    .filter((path) => existsSync(path))
    .sort((left, right) => statSync(right).mtimeMs - statSync(left).mtimeMs);
  if (!built[0]) throw new Error("no server binary found; build it with: make release");
  return built[0];
}

const binary = process.env.TALLY_BINARY ?? lastBuilt();

export interface Server {
  url: string;
  /** Stops the server with SIGTERM and waits until it has exited. */
  stop(): Promise<void>;
}

/** Starts the binary in `folder`, on `address`, with the store at this URL. */
export async function startServer(
  folder: string,
  address: string,
  store: string,
  variables: Record<string, string> = {},
): Promise<Server> {
  const server = spawn(binary, [], {
    cwd: folder,
    env: {
      ...process.env,
      LEPTOS_SITE_ADDR: address,
      SESSION_STORE: store,
      TALLY_METRICS: "off",
      ...variables,
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: server.stdout as NodeJS.ReadableStream })) {
    const url = /http:\/\/\S+/.exec(line)?.[0];
    if (url) return { url, stop: () => ended(server) };
  }
  throw new Error(`${binary} exited before it was ready; build it with: make release`);
}

/** The operator's password. */
export const password = "correct horse battery staple";

/** The environment variables that enable the console. */
export function consoleVariables(): Record<string, string> {
  const hash = execFileSync(binary, ["hash-password"], { input: `${password}\n`, encoding: "utf8" });
  return { TALLY_CONSOLE_PASSWORD_HASH: hash.trim() };
}

async function ended(server: ChildProcess): Promise<void> {
  const exit = once(server, "exit");
  server.kill("SIGTERM");
  expect(await exit).toEqual([0, null]);
}

async function freePort(): Promise<number> {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  listener.close();
  await once(listener, "close");
  return port;
}

/** Starts Redis on a free port, and returns its URL and a function that stops it. */
async function startRedis(folder: string): Promise<{ url: string; stop(): Promise<void> }> {
  const port = await freePort();
  const arguments_ = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", folder];
  const redis = spawn("redis-server", arguments_, { stdio: ["ignore", "pipe", "inherit"] });
  for await (const line of createInterface({ input: redis.stdout as NodeJS.ReadableStream })) {
    if (line.includes("Ready to accept connections"))
      return { url: `redis://127.0.0.1:${port}`, stop: () => ended(redis) };
  }
  throw new Error("redis-server did not start; scripts/setup test installs it");
}

/** Closes all pages. Without that they would log failed requests when their server stops. */
async function closePages(context: BrowserContext): Promise<void> {
  for (const page of context.pages()) await page.close();
}

async function onOneRedis(
  folder: string,
  context: BrowserContext,
  variables: Record<string, string>,
  use: (servers: [Server, Server]) => Promise<void>,
): Promise<void> {
  const redis = await startRedis(folder);
  const first = await startServer(folder, "127.0.0.1:0", redis.url, variables);
  const second = await startServer(folder, "127.0.0.1:0", redis.url, variables);
  await use([first, second]);
  await closePages(context);
  await first.stop();
  await second.stop();
  await redis.stop();
}

interface PerTest {
  expectedErrors: RegExp;
  /** A temporary folder, deleted after the test. */
  folder: string;
  /** Two servers on one Redis. */
  twoServers: [Server, Server];
  /** Two servers on one Redis, with an operator's console. */
  twoConsoles: [Server, Server];
  /** A server with an operator's console. */
  consoleServer: Server;
}

export const test = base.extend<PerTest, { server: string }>({
  server: [
    async ({}, use) => {
      const folder = mkdtempSync(join(tmpdir(), "tally-"));
      const server = await startServer(folder, "127.0.0.1:0", "sqlite://sessions.sqlite3");
      await use(server.url);
      await server.stop();
      rmSync(folder, { recursive: true });
    },
    { scope: "worker" },
  ],
  folder: async ({}, use) => {
    const folder = mkdtempSync(join(tmpdir(), "tally-"));
    await use(folder);
    rmSync(folder, { recursive: true });
  },
  twoServers: async ({ folder, context }, use) => onOneRedis(folder, context, {}, use),
  twoConsoles: async ({ folder, context }, use) => onOneRedis(folder, context, consoleVariables(), use),
  consoleServer: async ({ folder, context }, use) => {
    const server = await startServer(folder, "127.0.0.1:0", "memory:", consoleVariables());
    await use(server);
    await closePages(context);
    await server.stop();
  },
  // Matches the console errors that a test provokes on purpose. Matches nothing by default.
  expectedErrors: [/(?!)/, { option: true }],
  baseURL: async ({ server }, use) => use(server),
  context: async ({ context, expectedErrors }, use) => {
    const errors: string[] = [];
    context.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) errors.push(message.text());
    });
    context.on("weberror", (error) => errors.push(error.error().message));
    await use(context);
    // Without script the preloaded files stay unused, and the browser warns about that.
    const unused = withScript() ? /(?!)/ : /was preloaded using link preload but not used/;
    // A test may end and close its page during a view transition.
    const closed = /Transition was aborted because of invalid state/;
    const isExpected = (error: string) =>
      [expectedErrors, unused, closed].some((expected) => expected.test(error));
    expect(errors.filter((error) => !isExpected(error))).toEqual([]);
  },
});

/** Opens a page and, with script, waits until it is hydrated. */
export async function visit(page: Page, path: string): Promise<void> {
  await page.goto(path);
  await ready(page);
}

/** Opens a page and waits until its stream is open. */
export async function listen(page: Page, path: string): Promise<void> {
  const stream = page.waitForRequest("**/live");
  await visit(page, path);
  await (await stream).response();
}

/** Submits a password on the console's sign-in page. */
export async function tryPassword(page: Page, text: string): Promise<void> {
  await page.getByLabel("Password").fill(text);
  await page.getByRole("button", { name: "Sign in" }).click();
}

/** Signs in to the console and, with script, waits until the overview has received its first event. */
export async function signIn(page: Page, url: string): Promise<void> {
  await page.goto(`${url}/admin`);
  await tryPassword(page, password);
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("Overview");
  // A stream requested after the end of the sign-in would get the sign-in page as its response.
  if (withScript()) await expect(page.locator("[data-listening]")).toBeAttached();
}

/** Checks that the page fits a small screen, takes screenshots, and scans the page for accessibility violations. */
export async function fitsAndIsAccessible(page: Page, name: string): Promise<void> {
  const info = test.info();
  await page.setViewportSize({ width: 320, height: 640 });
  await page.screenshot({ path: info.outputPath(`${name}-320.png`), fullPage: true });
  expect(await page.locator("html").evaluate((root) => root.scrollWidth)).toBeLessThanOrEqual(320);
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.screenshot({ path: info.outputPath(`${name}.png`), fullPage: true });
  // The scanner is a script in the page.
  if (withScript()) expect((await new AxeBuilder({ page }).analyze()).violations).toEqual([]);
}

/** With script, waits until the page is hydrated. */
export async function ready(page: Page): Promise<void> {
  if (withScript()) await expect(page.locator("html[data-hydrated]")).toBeAttached();
}

export function withScript(): boolean {
  return test.info().project.name === "script";
}

export { expect };
