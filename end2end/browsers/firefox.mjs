// Firefox, controlled with WebDriver BiDi.
import puppeteer from "puppeteer-core";

/** Starts a browser with a new profile. */
export async function launch({ script }) {
  const browser = await puppeteer.launch({
    browser: "firefox",
    executablePath: "/usr/bin/firefox-esr",
    extraPrefsFirefox: { "javascript.enabled": script },
  });
  const errors = [];
  const open = async () => {
    const page = await browser.newPage({ type: "window" });
    page.on("console", (message) => {
      if (["error", "warn"].includes(message.type())) errors.push(message.text());
    });
    page.on("pageerror", (error) => errors.push(error.message));
    return tab(page);
  };
  return { errors, open, close: () => browser.close() };
}

function tab(page) {
  const click = async (css) => {
    // Puppeteer's own click waits for a promise in the page, which never resolves without script.
    const [x, y] = await page.evaluate(`(() => {
      const element = document.querySelector(${JSON.stringify(css)});
      element.scrollIntoView({ block: "nearest", behavior: "instant" });
      const box = element.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    })()`);
    await page.mouse.click(x, y);
  };
  return {
    goto: (url) => page.goto(url),
    back: () => page.goBack(),
    value: (expression) => page.evaluate(expression),
    click,
    type: async (css, text) => {
      await click(css);
      await page.keyboard.type(text);
    },
    press: async (key) => {
      // Only the focused window handles keys.
      await page.bringToFront();
      await page.keyboard.press(key);
    },
  };
}
