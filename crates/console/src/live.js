// Keeps the overview in step. Everything on the page is there without this.
const page = document.querySelector("[data-live]");
const ended = document.querySelector("[data-ended]");
let stream;

// How long to wait for the next try after the server has turned this page away, in milliseconds.
const AGAIN = 15_000;

function listen() {
  stream = new EventSource(page.dataset.live);
  stream.addEventListener("error", ({ target }) => {
    if (target.readyState === EventSource.CLOSED) turnedAway();
  });
  stream.addEventListener("part", ({ data }) => {
    const fresh = new DOMParser().parseFromString(data, "text/html").querySelector("[data-part]");
    document.querySelector(`[data-part="${fresh.dataset.part}"]`).replaceChildren(...fresh.childNodes);
    page.dataset.listening = "";
  });
  stream.addEventListener("ended", end);
  // By a later page of the same browser; this one listens again when it is looked at again.
  stream.addEventListener("replaced", () => stream.close());
}

function end() {
  stream?.close();
  stream = undefined;
  ended.hidden = false;
  document.removeEventListener("visibilitychange", watch);
}

// By the sign-in page, or by something in between that is not well.
async function turnedAway() {
  const answer = await fetch(page.dataset.live, { method: "HEAD" }).catch(() => undefined);
  if (answer?.ok && answer.headers.get("content-type")?.startsWith("text/html")) end();
  else setTimeout(watch, AGAIN);
}

// A hidden page listens to nothing.
function watch() {
  stream?.close();
  stream = undefined;
  if (document.visibilityState === "visible") listen();
}

if (page) {
  document.addEventListener("visibilitychange", watch);
  watch();
}
