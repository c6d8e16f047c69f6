import { spawn } from "node:child_process";
import { once } from "node:events";
import { root } from "../../src/config.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/** A file of the project that runs as a process of its own. */
export interface RunningProcess {
  /** What it has printed until now, on both streams. */
  output(): string;
  kill(signal: NodeJS.Signals): void;
  /** Waits for its end; the exit code, or the name of the signal. */
  ended(): Promise<number | string>;
}

/**
 * Starts a file, with what follows it as arguments, in the project's folder with these variables and no others, and waits until
 * it says that it is ready; it goes with the test.
 *
 * @throws Error with what it printed, when it ends instead.
 */
export async function startProcess(
  t: Scope,
  file: string,
  { env, ready }: { env: Record<string, string>; ready: string },
): Promise<RunningProcess> {
  const variables = Object.entries({ PATH: process.env["PATH"] ?? "", ...env });
  // Through env -i: tap would slip its own loader into a Node that it sees being started.
  const child = spawn(
    "env",
    [
      "-i",
      ...variables.map(([name, value]) => `${name}=${value}`),
      process.execPath,
      ...file.split(" "),
    ],
    { cwd: root, stdio: ["ignore", "pipe", "pipe"] },
  );
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
  let over = false;
  const end = (once(child, "close") as Promise<[number | null, string | null]>).finally(
    () => (over = true),
  );
  t.teardown(() => {
    if (!over) child.kill("SIGKILL");
  });
  await until(() => over || output.includes(ready), `${file} to say: ${ready}`);
  if (over) throw new Error(`${file} ended before it was ready:\n${output}`);
  return {
    output: () => output,
    kill: (signal) => void child.kill(signal),
    ended: async () => {
      const [code, signal] = await end;
      return code ?? signal ?? "";
    },
  };
}
