// WebKitGTK's MiniBrowser on a screen that nobody sees, driven by WebDriver.
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import { start, until } from "./processes.mjs";

const keys = { Tab: "\uE004", Enter: "\uE007" };

// The driver has no way to the console, and MiniBrowser prints none of it while it is driven. So the page
// takes notes itself, from the first question on that it is asked. A page that fails before that does not
// get ready, which the steps wait for.
const takeNotes = `
  if (!window.notes) {
    window.notes = [];
    for (const level of ["error", "warn"]) {
      const print = console[level];
      console[level] = (...parts) => { window.notes.push(parts.join(" ")); print.apply(console, parts); };
    }
    addEventListener("error", (event) => window.notes.push(event.message));
    addEventListener("unhandledrejection", (event) => window.notes.push(String(event.reason)));
    addEventListener("securitypolicyviolation", (event) => window.notes.push("refused " + event.blockedURI));
  }`;

/** Starts a browser without a profile. */
export async function launch({ script }) {
  const screen = await start("Xvfb", ["-displayfd", "1", "-nolisten", "tcp"], {}, /^\d+$/);
  const port = await freePort();
  const env = { ...process.env, DISPLAY: `:${screen.found}`, GDK_BACKEND: "x11" };
  const driver = await start("WebKitWebDriver", [`--port=${port}`], { env });

  const ask = async (method, path, body) => {
    const url = `http://127.0.0.1:${port}${path}`;
    const answer = await fetch(url, { method, body: body && JSON.stringify(body) });
    const { value } = await answer.json();
    if (!answer.ok) throw new Error(value.message || value.error);
    return value;
  };
  await until("the driver is ready", async () => (await ask("GET", "/status")).ready, true);

  // The driver runs scripts of its own in a page whose markup may have none.
  const args = ["--automation", `--enable-javascript-markup=${script}`];
  const alwaysMatch = { "webkitgtk:browserOptions": { binary: miniBrowser(), args } };
  const session = `/session/${(await ask("POST", "/session", { capabilities: { alwaysMatch } })).sessionId}`;

  const errors = [];
  const open = async () => {
    const { handle } = await ask("POST", `${session}/window/new`, { type: "window" });
    const tell = async (method, path, body) => {
      await ask("POST", `${session}/window`, { handle });
      return ask(method, session + path, body);
    };
    return tab(tell, errors);
  };
  const close = async () => {
    await ask("DELETE", session);
    await driver.stop();
    await screen.stop();
  };
  return { errors, open, close };
}

function tab(tell, errors) {
  const value = async (expression) => {
    const script = `${takeNotes}; return [${expression}, window.notes.splice(0)]`;
    const [answer, notes] = await tell("POST", "/execute/sync", { script, args: [] });
    errors.push(...notes);
    return answer;
  };
  const find = async (css) => {
    const element = await tell("POST", "/element", { using: "css selector", value: css });
    return `/element/${Object.values(element)[0]}`;
  };
  // The driver looks where an element is, and then clicks there: it must not be moving.
  const rests = async (css) => {
    let last;
    const isWhereItWas = async () => {
      const before = last;
      last = await value(
        `JSON.stringify(document.querySelector(${JSON.stringify(css)})?.getBoundingClientRect())`,
      );
      return Boolean(last) && last === before;
    };
    await until(`${css} rests`, isWhereItWas, true);
  };
  return {
    goto: (url) => tell("POST", "/url", { url }),
    back: () => tell("POST", "/back", {}),
    value,
    click: async (css) => {
      await rests(css);
      await tell("POST", `${await find(css)}/click`, {});
    },
    type: async (css, text) => tell("POST", `${await find(css)}/value`, { text }),
    press: (key) => {
      const actions = ["keyDown", "keyUp"].map((type) => ({ type, value: keys[key] }));
      return tell("POST", "/actions", { actions: [{ type: "key", id: "keyboard", actions }] });
    },
  };
}

function miniBrowser() {
  const paths = readdirSync("/usr/lib").map((folder) => `/usr/lib/${folder}/webkit2gtk-4.1/MiniBrowser`);
  const found = paths.find((path) => existsSync(path));
  if (!found) throw new Error("there is no MiniBrowser; scripts/setup browsers installs it");
  return found;
}

async function freePort() {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}
