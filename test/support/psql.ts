import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/config.ts";
import type { Ended } from "./program.ts";

const DEBIAN = "/usr/lib/postgresql";

/** The path of psql, which the embedded PostgreSQL comes without. */
export function findPsql(): string | undefined {
  const folders = [
    process.env["PG_BIN"] ?? "",
    ...(process.env["PATH"] ?? "").split(":"),
    ...(existsSync(DEBIAN) ? readdirSync(DEBIAN) : []).map((name) => join(DEBIAN, name, "bin")),
  ];
  return folders.map((folder) => join(folder, "psql")).find((path) => existsSync(path));
}

/**
 * Runs psql in the project's folder with this as what is typed, and stops at an error; or
 * when it has printed enough, for what would go on for ever.
 */
export async function runPsql(
  psql: string,
  url: string,
  typed: string,
  env: Record<string, string> = {},
  isEnough: (output: string) => boolean = () => false,
): Promise<Ended> {
  const child = spawn(psql, ["--set", "ON_ERROR_STOP=1", url], {
    cwd: root,
    env: { PATH: process.env["PATH"], HOME: "/nonexistent", LC_ALL: "C.UTF-8", ...env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString();
    if (isEnough(output)) child.kill("SIGTERM");
  });
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stdin.end(typed);
  const [code] = (await once(child, "close")) as [number | null];
  return { code, output };
}
