import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { root } from "../../src/config.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/** A program that runs as a process of its own. */
export interface Child {
  readonly pid: number;
  /** What it has printed until now, on both streams. */
  output(): string;
  kill(signal: NodeJS.Signals): void;
  /** Whether it has ended, and been heard out. */
  over(): boolean;
  /** Waits for that; the exit code, or the name of the signal. */
  ended(): Promise<number | string>;
}

/**
 * Starts a command, with PATH and these variables and no others; it goes with the test, which
 * does not end before it, nor before whatever it has left its output to.
 */
export function startChild(
  t: Scope,
  command: readonly string[],
  { cwd = root, env = {} }: { cwd?: string; env?: Record<string, string> } = {},
): Child {
  const variables = Object.entries({ PATH: process.env["PATH"] ?? "", ...env });
  // Through env -i: tap would slip its own loader into a Node that it sees being started.
  const child = spawn(
    "env",
    ["-i", ...variables.map(([name, value]) => `${name}=${value}`), ...command],
    { cwd, stdio: ["ignore", "pipe", "pipe"] },
  );
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
  let over = false;
  // Not "exit": by then it need not have been heard out.
  const closed = (once(child, "close") as Promise<[number | null, string | null]>).finally(
    () => (over = true),
  );
  t.teardown(async () => {
    if (!over) child.kill("SIGKILL");
    await until(() => over, `the end of ${command.join(" ")}`).catch(async (error: unknown) => {
      throw new Error(`${String(error)}; killed, it is ${await stateOf(child)}`);
    });
  });
  return {
    pid: child.pid ?? 0,
    output: () => output,
    kill: (signal) => void child.kill(signal),
    over: () => over,
    ended: async () => {
      const [code, signal] = await closed;
      return code ?? signal ?? "";
    },
  };
}

/** Whether a process is there still, or only what holds its output. */
async function stateOf(child: ChildProcess): Promise<string> {
  const status = await readFile(`/proc/${child.pid}/status`, "utf8").catch(() => "");
  const state = /^State:\s*(.*)$/m.exec(status)?.[1] ?? "gone";
  return `${state}, code ${child.exitCode}, signal ${child.signalCode}`;
}
