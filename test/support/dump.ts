import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Where pg_dump and its kin are for the PostgreSQL that the tests run on. */
const binaries = process.env["PG_BIN"];

/** Whether there is no pg_dump for it, and why; for tap's `skip`. */
export const NO_DUMP: false | string =
  binaries !== undefined && existsSync(join(binaries, "pg_dump"))
    ? false
    : "the embedded PostgreSQL has no pg_dump: set PG_BIN";

/** Runs one of PostgreSQL's programs; `tolerant` where errors are part of what is tried. */
export async function pgProgram(
  name: "pg_dump" | "pg_restore" | "psql",
  args: readonly string[],
  { tolerant = false }: { tolerant?: boolean } = {},
): Promise<string> {
  try {
    const { stdout, stderr } = await run(join(binaries ?? "", name), args, {
      maxBuffer: 64 * 1024 * 1024,
    });
    return stdout + stderr;
  } catch (error) {
    if (!tolerant) throw error;
    return (error as { stderr: string }).stderr;
  }
}
