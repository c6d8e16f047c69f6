import { spawn } from "node:child_process";
import { once } from "node:events";
import { root } from "../../src/config.ts";

/** How a program ended. */
export interface Ended {
  readonly code: number | null;
  /** What it printed, on both streams. */
  readonly output: string;
}

/** Runs a file of the project, with what follows it as arguments, to its end, in the project's folder, as its scripts do. */
export async function runProgram(file: string, env: Record<string, string>): Promise<Ended> {
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
  const [code] = (await once(child, "close")) as [number | null];
  return { code, output };
}
