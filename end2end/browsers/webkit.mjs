// WebKitGTK's MiniBrowser on a virtual screen, controlled with WebDriver.
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import { start, until } from "./processes.mjs";

const keys = { Tab: "\uE004", Enter: "\uE007" };

// WebDriver has no access to the browser's console, and MiniBrowser does not print it while it is automated. So this
// script, which runs with the first value requested from a page, collects the errors. A page that fails earlier never
// becomes ready, and the step times out.
const collectErrors = `
  if (!window.collected) {
    window.collected = [];
    for (const level of ["error", "warn"]) {
      const print = console[level];
      console[level] = (...parts) => { window.collected.push(parts.join(" ")); print.apply(console, parts); };
    }
    addEventListener("error", (event) => window.collected.push(event.message));
    addEventListener("unhandledrejection", (event) => window.collected.push(String(event.reason)));
    addEventListener("securitypolicyviolation", (event) => window.collected.push("blocked " + event.blockedURI));
  }`;

/** Starts a browser without a profile. */
export async function launch({ script }) {
  const screen = await start("Xvfb", ["-displayfd", "1", "-nolisten", "tcp"], {}, /^\d+$/);
  const port = await freePort();
  const env = { ...process.env, DISPLAY: `:${screen.match}`, GDK_BACKEND: "x11" };
  const driver = await start("WebKitWebDriver", [`--port=${port}`], { env });

  const request = async (method, path, body) => {
    const url = `http://127.0.0.1:${port}${path}`;
    const response = await fetch(url, { method, body: body && JSON.stringify(body) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(value.message || value.error);
    return value;
  };
  await until("the driver is ready", async () => (await request("GET", "/status")).ready, true);

  // This disables only the scripts in the page's markup. WebDriver can still run scripts.
  const args = ["--automation", `--enable-javascript-markup=${script}`];
  const alwaysMatch = { "webkitgtk:browserOptions": { binary: miniBrowser(), args } };
  const session = `/session/${(await request("POST", "/session", { capabilities: { alwaysMatch } })).sessionId}`;

  const errors = [];
  const open = async () => {
    const { handle } = await request("POST", `${session}/window/new`, { type: "window" });
    const send = async (method, path, body) => {
      await request("POST", `${session}/window`, { handle });
      return request(method, session + path, body);
    };
    return tab(send, errors);
  };
  const close = async () => {
    await request("DELETE", session);
    await driver.stop();
    await screen.stop();
  };
  return { errors, open, close };
}

function tab(send, errors) {
  const value = async (expression) => {
    const script = `${collectErrors}; return [${expression}, window.collected.splice(0)]`;
    const [result, collected] = await send("POST", "/execute/sync", { script, args: [] });
    errors.push(...collected);
    return result;
  };
  const find = async (css) => {
    const element = await send("POST", "/element", { using: "css selector", value: css });
    return `/element/${Object.values(element)[0]}`;
  };
  // WebDriver determines an element's position before it clicks there, so wait until the element has stopped moving.
  const stable = async (css) => {
    let last;
    const hasNotMoved = async () => {
      const before = last;
      last = await value(
        `JSON.stringify(document.querySelector(${JSON.stringify(css)})?.getBoundingClientRect())`,
      );
      return Boolean(last) && last === before;
    };
    await until(`${css} is stable`, hasNotMoved, true);
  };
  return {
    goto: (url) => send("POST", "/url", { url }),
    back: () => send("POST", "/back", {}),
    value,
    click: async (css) => {
      await stable(css);
      await send("POST", `${await find(css)}/click`, {});
    },
    type: async (css, text) => send("POST", `${await find(css)}/value`, { text }),
    press: (key) => {
      const actions = ["keyDown", "keyUp"].map((type) => ({ type, value: keys[key] }));
      return send("POST", "/actions", { actions: [{ type: "key", id: "keyboard", actions }] });
    },
  };
}

function miniBrowser() {
  const paths = readdirSync("/usr/lib").map((folder) => `/usr/lib/${folder}/webkit2gtk-4.1/MiniBrowser`);
  const found = paths.find((path) => existsSync(path));
  if (!found) throw new Error("MiniBrowser not found; scripts/setup browsers installs it");
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
