// Writes the baseline anew: migrations/committed/000001-state.sql from migrations/baseline.sql, and
// 000002-behaviour.sql from all files of sql/. Only until the first release: then both are frozen.
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { root } from "../src/config.ts";
import { marker } from "../src/committed.ts";
import { type SqlFile, sqlFiles } from "../test/support/sql_files.ts";

const BEHAVIOUR_HEAD = `-- The behaviour: every file of sql/, in the order in which they lean on one another.

set local check_function_bodies = off;
`;
const BEHAVIOUR_TAIL = `
select
  webhookpub.create_partitions('webhookpub.envelopes'),
  webhookpub.create_partitions('webhookpub.attempts');

select webhookpub.settle_privileges(p_quietly => true);
select webhookpub.install_roles();
`;

const files = await sqlFiles();
const baseline = await readFile(join(root, "migrations/baseline.sql"), "utf8");
const byPath = new Map(files.map((file) => [file.path, file]));
const included = (path: string): string => {
  const file = byPath.get(path);
  if (!file) throw new Error(`there is no sql/${path}`);
  return `--! Included ${path}\n${file.text.trim()}\n--! EndIncluded ${path}`;
};
const inState = new Set<string>();
const state = baseline.replaceAll(/^--!include (\S+)$/gm, (_, path: string) => {
  inState.add(path);
  return included(path);
});
const rest = ordered(files.filter((file) => !inState.has(file.path)));
const behaviour = [
  BEHAVIOUR_HEAD,
  ...rest.map((file) => `${included(file.path)}\n`),
  BEHAVIOUR_TAIL,
].join("");

await mkdir(join(root, "migrations/committed"), { recursive: true });
const first = await write("000001-state.sql", state, undefined);
await write("000002-behaviour.sql", `${behaviour}${marker("000002", state + behaviour)}`, first);

/** Those before it that a file needs at once: views and bodies in the SQL standard's form. */
function ordered(all: readonly SqlFile[]): SqlFile[] {
  const done = new Set<SqlFile>();
  const visit = (file: SqlFile, path: readonly SqlFile[]) => {
    if (done.has(file) || path.includes(file)) return;
    if (/^return\b|begin atomic|create or replace view/m.test(file.code)) {
      for (const other of all) {
        if (other !== file && new RegExp(`\\b${other.name}\\b`).test(file.code)) {
          visit(other, [...path, file]);
        }
      }
    }
    done.add(file);
  };
  for (const file of all) visit(file, []);
  return [...done];
}

async function write(name: string, text: string, previous: string | undefined): Promise<string> {
  const body = text.trim();
  const hash = `sha1:${createHash("sha1")
    .update(`${`${previous ?? ""}\n${body}`.trim()}\n`)
    .digest("hex")}`;
  const message = name.slice(7, -4);
  const head = `--! Previous: ${previous ?? "-"}\n--! Hash: ${hash}\n--! Message: ${message}\n\n`;
  await writeFile(join(root, "migrations/committed", name), `${head}${body}\n`);
  return hash;
}
