// A smoke test of the release binary in Debian's Firefox and WebKit. The tests in ../tests are more thorough, but run
// in Chromium only.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as firefox from "./firefox.mjs";
import { start, until } from "./processes.mjs";
import * as webkit from "./webkit.mjs";

const binary = process.env.TALLY_BINARY ?? join(import.meta.dirname, "../../target/release/tally");
const password = "correct horse battery staple";

const countAgain = ".actions .primary";
const colours = (name) => `input[value="${name}"] + button`;
const isDark = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((part) => part < 128)";

const text = (tab, css) => tab.value(`document.querySelector(${JSON.stringify(css)})?.textContent`);
const has = (tab, css) => tab.value(`!!document.querySelector(${JSON.stringify(css)})`);
const number = async (tab) => Number(await text(tab, ".number"));
const shows = (tab, css, expected) => until(css, () => text(tab, css), expected);
const counts = (tab, expected) => until("the number", () => number(tab), expected);
// The page sets this attribute when it is hydrated.
const ready = (tab) => until("the page is ready", () => has(tab, "html[data-hydrated]"), true);

async function visit(tab, url) {
  await tab.goto(url);
  await ready(tab);
}

/** The steps of the test, by title. A step may return a remark for the output. */
const steps = {
  "counts in place": async ({ tab, url }) => {
    await visit(tab, `${url}/`);
    const before = await number(tab);
    await tab.value("window.sameDocument = true");
    await tab.click(countAgain);
    await counts(tab, before + 1);
    await until("the document is the same", () => tab.value("window.sameDocument"), true);
  },

  "a second tab follows": async ({ tab, second, url }) => {
    // The tab has a window of its own, because a hidden page holds no stream.
    await visit(second, `${url}/about`);
    const before = await number(second);
    await tab.click(countAgain);
    await counts(second, before + 1);
  },

  "cookie test": async ({ tab, url }) => {
    await visit(tab, `${url}/`);
    await visit(tab, `${url}/about`);
    await shows(tab, ".verdict", "Cookie Tested!");
    // The first visit of this page has deleted the test cookie.
    await visit(tab, `${url}/about`);
    await shows(tab, ".verdict", "Cookie not set or not supported");
  },

  reset: async ({ tab, url }) => {
    await visit(tab, `${url}/`);
    await visit(tab, `${url}/reset`);
    await shows(tab, ".verdict", "Visit count has been reset to 0");
    await visit(tab, `${url}/about`);
    await counts(tab, 0);
  },

  "back shows the current number": async ({ tab, second, url }) => {
    await visit(tab, `${url}/`);
    await tab.value("window.sameDocument = true");
    // The console is another document, so this leaves the page.
    await tab.goto(`${url}/admin`);
    await visit(second, `${url}/`);
    const before = await number(second);
    await second.click(countAgain);
    await counts(second, before + 1);
    await tab.back();
    await ready(tab);
    const kept = (await tab.value("window.sameDocument")) === true;
    // A reload counts another visit.
    for (const either of [tab, second]) await counts(either, before + (kept ? 1 : 2));
    return kept ? "from the back/forward cache" : "reloaded";
  },

  "no script": async ({ launch, url }) => {
    const browser = await launch({ script: false });
    try {
      const tab = await browser.open();
      await tab.goto(`${url}/`);
      const before = await number(tab);
      await tab.click(countAgain);
      await counts(tab, before + 1);
      await until("the page is hydrated", () => has(tab, "html[data-hydrated]"), false);
      expectNone(browser.errors);
    } finally {
      await browser.close();
    }
  },

  "operator signs in": async ({ tab, url }) => {
    await tab.goto(`${url}/admin`);
    await tab.type("#password", password);
    await tab.click("main form button");
    await shows(tab, "h1", "Overview");
    await until("the overview has received an event", () => has(tab, "[data-listening]"), true);
  },

  "dark theme": async ({ tab, url }) => {
    await visit(tab, `${url}/`);
    await tab.click(colours("light"));
    await until("light is chosen", () => has(tab, `${colours("light")}[aria-pressed="true"]`), true);
    await until("the page is dark", () => tab.value(isDark), false);
    await tab.click(colours("dark"));
    await until("the page is dark", () => tab.value(isDark), true);
    // The server has saved the choice and renders it.
    await visit(tab, `${url}/about`);
    await until("the page is dark", () => tab.value(isDark), true);
  },

  keyboard: async ({ tab, url }) => {
    await visit(tab, `${url}/`);
    const before = await number(tab);
    const reached = () => tab.value(`document.activeElement.matches(${JSON.stringify(countAgain)})`);
    for (let presses = 0; presses < 12 && !(await reached()); presses++) await tab.press("Tab");
    await until("the button has the focus", reached, true);
    await tab.press("Enter");
    await counts(tab, before + 1);
  },

  "no error on the console": async ({ tab, errors }) => {
    // The errors are checked after each step. This step proves that an error would have been noticed.
    const provoked = "provoked by the test";
    await tab.value(
      `(setTimeout(() => { throw new Error("${provoked}") }), console.error("${provoked}"), true)`,
    );
    const noticed = async () => {
      await tab.value("true");
      return errors.filter((error) => error.includes(provoked)).length;
    };
    await until("errors noticed", noticed, 2);
    errors.length = 0;
  },
};

function expectNone(errors) {
  if (errors.length) throw new Error(`errors on the console: ${errors.join("; ")}`);
}

async function runSteps(name, launch, url) {
  const browser = await launch({ script: true });
  try {
    const { errors } = browser;
    const [tab, second] = [await browser.open(), await browser.open()];
    for (const [title, step] of Object.entries(steps)) {
      now = `${name}: ${title}`;
      const remark = await step({ tab, second, url, launch, errors });
      // WebKit reports the errors of a page together with a value.
      for (const page of [tab, second]) await page.value("true");
      expectNone(errors);
      console.log(`${now} ok${remark ? ` (${remark})` : ""}`);
    }
  } finally {
    await browser.close();
  }
}

async function smoke(name, launch) {
  const folder = mkdtempSync(join(tmpdir(), "tally-"));
  const hash = execFileSync(binary, ["hash-password"], { input: `${password}\n`, encoding: "utf8" });
  const env = {
    ...process.env,
    LEPTOS_SITE_ADDR: "127.0.0.1:0",
    TALLY_METRICS: "127.0.0.1:0",
    SESSION_STORE: "sqlite://sessions.sqlite3",
    TALLY_CONSOLE_PASSWORD_HASH: hash.trim(),
  };
  try {
    const server = await start(binary, [], { cwd: folder, env }, /(?<=Tally serves )http:\S+/);
    await runSteps(name, launch, server.match);
    await server.stop();
  } finally {
    rmSync(folder, { recursive: true });
  }
}

// The current step, for error messages.
let now = "start";

function fail(message) {
  console.error(`${now}: ${message}`);
  process.exit(1);
}

// End the test even if a browser hangs.
setTimeout(() => fail("not done after three minutes"), 180_000).unref();

try {
  await smoke("firefox", firefox.launch);
  await smoke("webkit", webkit.launch);
} catch (error) {
  fail(error.message);
}
