import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** The path of a program that is to be found in PATH. */
function findProgram(name: string): string | undefined {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this one.
    }
  }
  return undefined;
}

/**
 * Why a test that needs these programs is skipped; false when all of them are installed, and
 * in CI, where it must not go unnoticed.
 */
export function skipWithout(...names: string[]): string | false {
  const missing = names.filter((name) => findProgram(name) === undefined);
  if (missing.length === 0 || process.env["CI"] !== undefined) return false;
  return `not installed here: ${missing.join(", ")}`;
}
