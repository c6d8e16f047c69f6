import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { root } from "../../src/config.ts";

/**
 * Replaces a part of a file of the project.
 *
 * @throws Error when it is not there
 */
export async function edit(path: string, part: RegExp, by: string): Promise<void> {
  const text = await readFile(join(root, path), "utf8");
  if (!part.test(text)) throw new Error(`${path} has nothing like ${part.source}`);
  await writeFile(join(root, path), text.replace(part, by));
}
