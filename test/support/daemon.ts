import { spawn } from "node:child_process";
import { once } from "node:events";
import { root } from "../../src/config.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/**
 * Starts a program of the system's and waits until it answers at a URL; it goes with the test.
 *
 * @throws Error with what it printed, when it ends instead.
 */
export async function startDaemon(
  t: Scope,
  program: string,
  args: readonly string[],
  { url, env = {} }: { url: string; env?: Record<string, string> },
): Promise<void> {
  const child = spawn(program, args, {
    cwd: root,
    env: { PATH: process.env["PATH"], ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  // The last of it: some of them talk a lot.
  const hear = (chunk: Buffer) => (output = (output + chunk.toString()).slice(-20_000));
  child.stdout.on("data", hear);
  child.stderr.on("data", hear);
  let over = false;
  const end = once(child, "close").then(
    () => (over = true),
    (error: unknown) => {
      over = true;
      output += String(error);
    },
  );
  t.teardown(async () => {
    if (!over) child.kill("SIGKILL");
    await end;
  });
  await until(
    async () => over || (await fetch(url).catch(() => undefined))?.ok === true,
    `${program} to answer`,
  );
  if (over) throw new Error(`${program} ended before it was ready:\n${output}`);
}
