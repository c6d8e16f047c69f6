import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { root } from "../../src/config.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/** A worker that was started as users do it: through graphile-worker's CLI. */
export interface WorkerProcess {
  readonly pid: number;
  /** What it has printed until now. */
  output(): string;
  kill(signal: NodeJS.Signals): void;
  /** Waits for its end; the exit code, or the name of the signal. */
  ended(): Promise<number | string>;
}

/** Runs `npx graphile-worker` in the project's folder with DATABASE_URL; it goes with the test. */
export async function startWorkerProcess(
  t: Scope,
  url: string,
  { env = {}, args = [] }: { env?: Record<string, string>; args?: string[] } = {},
): Promise<WorkerProcess> {
  const worker = spawnWorker(url, { env, args });
  t.teardown(() => {
    if (!worker.over()) worker.child.kill("SIGKILL");
  });
  await until(
    () => worker.output().includes("looking for jobs") || worker.over(),
    "the worker to start",
  );
  return worker;
}

function spawnWorker(url: string, options: { env: Record<string, string>; args: string[] }) {
  const env = { PATH: process.env["PATH"] ?? "", DATABASE_URL: url, ...options.env };
  // Through env -i: tap would slip its own loader into a Node that it sees being started.
  const child: ChildProcess = spawn(
    "env",
    [
      "-i",
      ...Object.entries(env).map(([name, value]) => `${name}=${value}`),
      process.execPath,
      join(root, "node_modules/graphile-worker/dist/cli.js"),
      ...options.args,
    ],
    { cwd: root, stdio: ["ignore", "pipe", "pipe"] },
  );
  let output = "";
  child.stdout?.on("data", (chunk) => (output += String(chunk)));
  child.stderr?.on("data", (chunk) => (output += String(chunk)));
  // Not "exit": by then it need not have been heard out.
  const close = once(child, "close") as Promise<[number | null, string | null]>;
  return {
    child,
    over: () => child.exitCode !== null || child.signalCode !== null,
    pid: child.pid ?? 0,
    output: () => output,
    kill: (signal: NodeJS.Signals) => void child.kill(signal),
    ended: async () => {
      const [code, signal] = await close;
      return code ?? signal ?? "";
    },
  };
}
