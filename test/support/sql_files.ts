import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { root } from "../../src/config.ts";

/** A file of sql/. */
export interface SqlFile {
  /** Below sql/, as migrations include it: 1_publish/event_id.sql. */
  readonly path: string;
  /** What its object should be called. */
  readonly name: string;
  readonly text: string;
  /** The comment at its top, without the dashes, a line an element. */
  readonly header: readonly string[];
  /** Everything but comments. */
  readonly code: string;
}

/** Reads every file of sql/, in the order of their paths. */
export async function sqlFiles(): Promise<SqlFile[]> {
  const found = await readdir(join(root, "sql"), { recursive: true });
  const paths = found.filter((path) => path.endsWith(".sql")).toSorted();
  return await Promise.all(
    paths.map(async (path) => {
      const text = await readFile(join(root, "sql", path), "utf8");
      const lines = text.split("\n");
      const end = lines.findIndex((line) => !line.startsWith("--"));
      return {
        path,
        name: basename(path, ".sql"),
        text,
        header: lines.slice(0, end).map((line) => line.replace(/^-- ?/, "")),
        code: lines.filter((line) => !/^\s*--/.test(line)).join("\n"),
      };
    }),
  );
}
