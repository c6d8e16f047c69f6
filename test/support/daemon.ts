import { startChild } from "./child.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/**
 * Starts a program of the system's and waits until it answers at a URL; it goes with the test.
 *
 * @throws Error with the end of what it printed, when it ends instead.
 */
export async function startDaemon(
  t: Scope,
  program: string,
  args: readonly string[],
  { url, env = {} }: { url: string; env?: Record<string, string> },
): Promise<void> {
  const child = startChild(t, [program, ...args], { env });
  await until(
    async () => child.over() || (await fetch(url).catch(() => undefined))?.ok === true,
    `${program} to answer`,
  );
  // Some of them talk a lot.
  const said = child.output().slice(-20_000);
  if (child.over()) throw new Error(`${program} ended before it was ready:\n${said}`);
}
