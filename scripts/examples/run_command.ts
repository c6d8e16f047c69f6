import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Scope } from "../../test/support/scope.ts";
import type { Command } from "./languages.ts";

// For a machine that does something else as well.
const LIMIT_MS = 30 * 60_000;

interface Where {
  readonly folder: string;
  readonly env?: Record<string, string>;
}

/** A program that runs until it is stopped. */
export interface Running {
  /** What it has printed until now, on both streams. */
  output(): string;
  over(): boolean;
}

/** Of this process's environment only what tools need to find themselves and their caches. */
function environment(own: Record<string, string> = {}): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(?:PG|DATABASE_URL|NODE_OPTIONS|TAP|WEBHOOKPUB_)/.test(name),
  );
  return { ...(Object.fromEntries(kept) as Record<string, string>), ...own };
}

function start([program, ...args]: Command, { folder, env }: Where) {
  // Through env -i: tap would slip its own loader into a Node that it sees being started.
  const variables = Object.entries(environment(env)).map(([name, value]) => `${name}=${value}`);
  const child = spawn("env", ["-i", ...variables, program ?? "", ...args], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    // A group of its own, so that what it starts ends with it.
    detached: true,
  });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const over = () => child.exitCode !== null || child.signalCode !== null;
  const kill = () => {
    try {
      if (child.pid) process.kill(-child.pid, "SIGKILL");
    } catch {
      // It has ended, and all that it started.
    }
  };
  return { child, kill, over, output: () => output };
}

/**
 * Runs a command to its end.
 *
 * @returns what it printed
 * @throws Error with what it printed, when it fails or takes longer than half an hour
 */
export async function runCommand(command: Command, where: Where): Promise<string> {
  const { child, kill, output } = start(command, where);
  const limit = setTimeout(kill, LIMIT_MS);
  const [code] = (await once(child, "close").finally(() => clearTimeout(limit))) as [number | null];
  if (code === 0) return output();
  throw new Error(`${command.join(" ")} ended with ${code ?? "a signal"}:\n${output()}`);
}

/** Starts a program; it goes with the scope. */
export function startCommand(scope: Scope, command: Command, where: Where): Running {
  const { kill, output, over } = start(command, where);
  scope.teardown(kill);
  return { output, over };
}
