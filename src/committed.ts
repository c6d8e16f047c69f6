// What migrations/committed holds: which migration is the last, whose hashes are ours, and the
// functions and views as the last migration that has them leaves them.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./config.ts";

/** A migration as the database knows it. */
export interface Migration {
  /** Its number, of six digits. */
  readonly name: string;
  readonly hash: string;
}

/** Where the committed migrations are. */
export const migrationsFolder = join(root, "migrations");

/** The hash of the first migration of the chain before the first release. */
export const FIRST_OF_OLD_CHAIN = "sha1:e7b1b8f400dffe9437de142893f075b88893a125";

const MARKER =
  /^insert into webhookpub\.migrations \(name, hash\) values\n {2}\('(\d{6})', '(\w+)'\);$/m;

/** The end of a migration: with it the database knows that it ran. */
export function marker(name: string, text: string): string {
  const hash = createHash("sha256").update(text).digest("hex");
  return `\ninsert into webhookpub.migrations (name, hash) values\n  ('${name}', '${hash}');\n`;
}

/** The texts of all committed migrations, in their order. */
export function committedTexts(): string[] {
  const folder = join(migrationsFolder, "committed");
  return readdirSync(folder)
    .filter((file) => file.endsWith(".sql"))
    .toSorted()
    .map((file) => readFileSync(join(folder, file), "utf8"));
}

/**
 * The migration of the next release, with the files that it includes, as the repository has it; a
 * package has none.
 */
export function currentText(): string | undefined {
  const file = join(migrationsFolder, "current.sql");
  if (!existsSync(file)) return undefined;
  return readFileSync(file, "utf8").replaceAll(/^--!include (\S+)$/gm, (_, path: string) =>
    readFileSync(join(root, "sql", path), "utf8"),
  );
}

/** The last migration that this package brings, or the last of these. */
export function latest(texts: readonly string[] = committedTexts()): Migration {
  const [, name = "", hash = ""] = MARKER.exec(texts.at(-1) ?? "") ?? [];
  return { name, hash };
}

const VERSION = /^create or replace function webhookpub\.version \(\)[^]*?^return '([^']+)';$/m;

/** How many of the migrations each release had, by its version. */
export function releases(texts: readonly string[] = committedTexts()): ReadonlyMap<string, number> {
  return new Map(
    texts.flatMap((text, i) => {
      const [, release] = VERSION.exec(text) ?? [];
      return release === undefined ? [] : [[release, i + 1]];
    }),
  );
}

/** The hashes that graphile-migrate's ledger has of them. */
export function ledgerHashes(texts: readonly string[] = committedTexts()): string[] {
  return texts.flatMap((text) => /^--! Hash: (\S+)$/m.exec(text)?.[1] ?? []);
}

/** Tables that the migrations make, but for partitions. */
export function committedTables(texts: readonly string[] = committedTexts()): string[] {
  return namesIn(texts.join("\n"), /^create table (webhookpub\.\w+)/gm).filter(
    (name) => !namesIn(texts.join("\n"), /^drop table (webhookpub\.\w+)/gm).includes(name),
  );
}

/** Functions and views by their names, as they are now, in an order in which they can be made. */
export function committedObjects(
  texts: readonly string[] = committedTexts(),
): ReadonlyMap<string, string> {
  const objects = new Map<string, string>();
  for (const text of texts) {
    const parts = text.split(/^--! (?:Included|EndIncluded) .*$/m);
    parts.forEach((part, i) => {
      for (const name of namesIn(part, /^drop (?:function|view) (?:if exists )?(\w+\.\w+)/gm)) {
        objects.delete(name);
      }
      // Every second one is a file of sql/.
      const [name] = i % 2 === 1 ? namesIn(part, /^create or replace \w+ (\w+\.\w+)/gm) : [];
      if (name !== undefined) objects.set(name, part);
    });
  }
  return objects;
}

function namesIn(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map(([, name = ""]) => name);
}
