import { type Child, startChild } from "./child.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/**
 * Starts a file, with what follows it as arguments, in the project's folder with these variables and no others, and waits until
 * it says that it is ready, or ends instead; it goes with the test.
 */
export async function startOrEnd(
  t: Scope,
  file: string,
  { env, ready }: { env: Record<string, string>; ready: string },
): Promise<Child> {
  const child = startChild(t, [process.execPath, ...file.split(" ")], { env });
  await until(() => child.over() || child.output().includes(ready), `${file} to say: ${ready}`);
  return child;
}

/**
 * The same for what has to be ready.
 *
 * @throws Error with what it printed, when it ends instead.
 */
export async function startProcess(
  ...[t, file, options]: Parameters<typeof startOrEnd>
): Promise<Child> {
  const child = await startOrEnd(t, file, options);
  if (child.over()) throw new Error(`${file} ended before it was ready:\n${child.output()}`);
  return child;
}
