// The processes that the smoke test starts. All of them end with the test, even if it fails.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

const running = new Set();

function end(child) {
  // Signal the process group, so that the child's own children end, too.
  if (child.pid) process.kill(-child.pid, "SIGTERM");
}

process.on("exit", () => running.forEach(end));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));

/** Starts a program. Returns a function that stops it, and the match of `pattern` in its standard output. */
export async function start(command, args, options, pattern) {
  const output = pattern ? "pipe" : "ignore";
  const child = spawn(command, args, { stdio: ["ignore", output, "inherit"], detached: true, ...options });
  running.add(child);
  const ended = once(child, "exit").finally(() => running.delete(child));
  // Callers of `stop` await this promise. An error such as a missing program is thrown below.
  ended.catch(() => undefined);
  const stop = () => {
    if (running.has(child)) end(child);
    return ended;
  };
  if (!pattern) return { stop };
  for await (const line of createInterface({ input: child.stdout })) {
    const match = pattern.exec(line)?.[0];
    if (match) return { stop, match };
  }
  await ended;
  throw new Error(`${command} exited before it was ready`);
}

/** Polls until `get` returns the expected value, and fails with the last value after ten seconds. */
export async function until(description, get, expected) {
  const deadline = Date.now() + 10_000;
  for (;;) {
    // A document that the browser is about to leave returns an error.
    const actual = await get().catch((error) => error.message);
    if (actual === expected) return;
    if (Date.now() > deadline) throw new Error(`${description}: expected ${expected}, got ${actual}`);
    await pause(50);
  }
}
