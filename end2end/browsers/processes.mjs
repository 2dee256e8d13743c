// What the smoke test starts, and how all of it ends with the test, also with one that fails.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

const running = new Set();

function end(child) {
  // A group of its own: what the child has started ends with it.
  if (child.pid) process.kill(-child.pid, "SIGTERM");
}

process.on("exit", () => running.forEach(end));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));

/** Starts a program, and returns how to stop it and what `pattern` found on its standard output. */
export async function start(command, args, options, pattern) {
  const output = pattern ? "pipe" : "ignore";
  const child = spawn(command, args, { stdio: ["ignore", output, "inherit"], detached: true, ...options });
  running.add(child);
  const ended = once(child, "exit").finally(() => running.delete(child));
  // Whoever stops the child waits for this; a program that is missing is told below.
  ended.catch(() => undefined);
  const stop = () => {
    if (running.has(child)) end(child);
    return ended;
  };
  if (!pattern) return { stop };
  for await (const line of createInterface({ input: child.stdout })) {
    const found = pattern.exec(line)?.[0];
    if (found) return { stop, found };
  }
  await ended;
  throw new Error(`${command} ended before it was ready`);
}

/** Asks until the answer is the expected one, and fails with the last answer after ten seconds. */
export async function until(what, ask, expected) {
  const limit = Date.now() + 10_000;
  for (;;) {
    // A document that is just being left answers with an error.
    const seen = await ask().catch((error) => error.message);
    if (seen === expected) return;
    if (Date.now() > limit) throw new Error(`${what}: expected ${expected}, seen ${seen}`);
    await pause(50);
  }
}
