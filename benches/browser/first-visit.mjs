// Measures a first visit: bytes, time until the first click takes effect, layout shift, and the Lighthouse scores.
//
// first-visit.mjs BINARY CHROMIUM
//
// The network is throttled to 1.6 Mbit/s with a round trip of 150 ms, and the CPU to a quarter of its speed.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import lighthouse from "lighthouse";
import { chromium } from "playwright-core";

const [binary, executablePath] = process.argv.slice(2);
const ROUNDS = 5;
const flags = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"];
if (process.getuid?.() === 0) flags.push("--no-sandbox");

async function startServer(folder) {
  const server = spawn(binary, [], {
    cwd: folder,
    env: { ...process.env, LEPTOS_SITE_ADDR: "127.0.0.1:0", SESSION_STORE: "memory:", TALLY_METRICS: "off" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: server.stdout })) {
    const url = /http:\/\/\S+/.exec(line)?.[0];
    if (url) return { server, url };
  }
  throw new Error(`${binary} exited before it was ready`);
}

async function firstVisit(browser, url, slow) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const devtools = await context.newCDPSession(page);
  let bytes = 0;
  const parts = new Map();
  const names = new Map();
  devtools.on("Network.responseReceived", ({ requestId, response }) => names.set(requestId, new URL(response.url).pathname));
  devtools.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
    bytes += encodedDataLength;
    parts.set(names.get(requestId), encodedDataLength);
  });
  await devtools.send("Network.enable");
  if (slow) {
    const speed = (1.6e6 / 8) | 0;
    const link = { offline: false, latency: 150, downloadThroughput: speed, uploadThroughput: speed };
    await devtools.send("Network.emulateNetworkConditions", link);
    await devtools.send("Emulation.setCPUThrottlingRate", { rate: 4 });
  }
  // Runs in the page from the start of the navigation. Clicks as soon as the page is hydrated, and waits until the new
  // number has been painted.
  await page.addInitScript(() => {
    globalThis.shift = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) globalThis.shift += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
    globalThis.interactive = new Promise((resolve) => {
      const painted = () => requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
      const click = () => {
        document.querySelector("button.primary").click();
        new MutationObserver((_, observer) => {
          if (!document.querySelector(".number")?.textContent.includes("2")) return;
          observer.disconnect();
          painted();
        }).observe(document.querySelector(".count"), { childList: true, subtree: true, characterData: true });
      };
      new MutationObserver((_, observer) => {
        if (!document.documentElement?.hasAttribute("data-hydrated")) return;
        observer.disconnect();
        click();
      }).observe(document, { attributes: true, childList: true, subtree: true });
    });
  });
  await page.goto(url);
  const interactive = await page.evaluate(() => globalThis.interactive);
  const shift = await page.evaluate(() => globalThis.shift);
  await context.close();
  return { bytes, parts, interactive, shift };
}

function line(name, value, goal, met) {
  console.log(`${name.padEnd(52)}${value.padStart(10)}   goal ${goal.padEnd(10)}${met ? "met" : "MISSED"}`);
}

const folder = mkdtempSync(join(tmpdir(), "tally-"));
const { server, url } = await startServer(folder);
const port = 9222 + (process.pid % 1000);
const browser = await chromium.launch({ executablePath, args: [...flags, `--remote-debugging-port=${port}`] });
const visits = [];
for (let round = 0; round < ROUNDS; round++) visits.push(await firstVisit(browser, url, true));
const median = (figure) => visits.map(figure).sort((left, right) => left - right)[(ROUNDS - 1) / 2];
const [{ parts }] = visits;
for (const [path, size] of parts) if (!path.startsWith("/api/")) console.log(`${path.padEnd(52)}${String(size).padStart(10)}`);
const download = [...parts].filter(([path]) => path === "/" || path.startsWith("/pkg/")).reduce((sum, [, size]) => sum + size, 0);
const all = median((visit) => visit.interactive);
const shift = Math.max(...visits.map((visit) => visit.shift));
line("HTML, CSS, JavaScript, wasm of a first visit, bytes", `${download}`, "≤ 112000", download <= 112_000);
line("first click took effect, slow network and CPU, ms", all.toFixed(0), "≤ 1500", all <= 1_500);
line("layout shift", shift.toFixed(3), "0", shift === 0);
const report = await lighthouse(url, { port, output: "json", logLevel: "error", onlyCategories: ["performance", "accessibility", "best-practices"] });
const goals = { performance: 98, accessibility: 100, "best-practices": 100 };
for (const [name, goal] of Object.entries(goals)) {
  const score = Math.round(report.lhr.categories[name].score * 100);
  line(`Lighthouse: ${name}`, `${score}`, `≥ ${goal}`, score >= goal);
  if (score < goal)
    for (const { id } of report.lhr.categories[name].auditRefs) {
      const audit = report.lhr.audits[id];
      if (audit.score !== null && audit.score < 1) console.log(`    ${id}: ${audit.title} ${audit.displayValue ?? ""}`);
    }
}
await browser.close();
const ended = once(server, "exit");
server.kill("SIGTERM");
await ended;
rmSync(folder, { recursive: true });
