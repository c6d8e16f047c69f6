import { type Child, startChild } from "./child.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/** As users start it. */
const CLI = "node_modules/graphile-worker/dist/cli.js";

/** Runs `npx graphile-worker` in the project's folder with DATABASE_URL; it goes with the test. */
export async function startWorkerProcess(
  t: Scope,
  url: string,
  { env = {}, args = [] }: { env?: Record<string, string>; args?: string[] } = {},
): Promise<Child> {
  const worker = startChild(t, [process.execPath, CLI, ...args], {
    env: { DATABASE_URL: url, ...env },
  });
  await until(
    () => worker.output().includes("looking for jobs") || worker.over(),
    "the worker to start",
  );
  return worker;
}
