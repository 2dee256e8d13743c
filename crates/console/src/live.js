// Keeps the open overview up to date. Without this script the page shows everything as of its load.
const page = document.querySelector("[data-live]");
const ended = document.querySelector("[data-ended]");
let stream;

// The delay before the next attempt after the server has refused the stream, in milliseconds.
const RETRY_DELAY = 15_000;

function subscribe() {
  stream = new EventSource(page.dataset.live);
  stream.addEventListener("error", ({ target }) => {
    if (target.readyState === EventSource.CLOSED) refused();
  });
  stream.addEventListener("part", ({ data }) => {
    const fresh = new DOMParser().parseFromString(data, "text/html").querySelector("[data-part]");
    document.querySelector(`[data-part="${fresh.dataset.part}"]`).replaceChildren(...fresh.childNodes);
    page.dataset.listening = "";
  });
  stream.addEventListener("ended", end);
  // A newer page of the same session has replaced this subscription. It resumes when this page is shown again.
  stream.addEventListener("replaced", () => stream.close());
}

function end() {
  stream?.close();
  stream = undefined;
  ended.hidden = false;
  document.removeEventListener("visibilitychange", watch);
}

// An EventSource does not expose the response. Request it again to tell the sign-in page from a failure on the way.
async function refused() {
  const response = await fetch(page.dataset.live, { method: "HEAD" }).catch(() => undefined);
  if (response?.ok && response.headers.get("content-type")?.startsWith("text/html")) end();
  else setTimeout(watch, RETRY_DELAY);
}

// A hidden page holds no stream.
function watch() {
  stream?.close();
  stream = undefined;
  if (document.visibilityState === "visible") subscribe();
}

if (page) {
  document.addEventListener("visibilitychange", watch);
  watch();
}
