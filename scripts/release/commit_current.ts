import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { commit } from "graphile-migrate";
import { latest, marker } from "../../src/committed.ts";
import { root } from "../../src/config.ts";
import { connect } from "../../src/database/connect.ts";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { until } from "../../test/support/until.ts";

const path = join(root, "migrations/current.sql");

/**
 * Freezes migrations/current.sql as the next committed migration, with the files of sql/ that it
 * includes, having run all migrations on an embedded PostgreSQL.
 *
 * @param files of sql/ that it includes, whether it says so or not
 * @throws Error when they don't run; then nothing is committed
 */
export async function commitCurrent(message: string, files: readonly string[]): Promise<void> {
  const before = await readFile(path, "utf8");
  const cluster = await startTemporaryPostgres();
  const database = (name: string) => cluster.url.replace(/postgres$/, name);
  try {
    const sql = connect(cluster.url, { max: 1 });
    await sql`create database development`;
    await sql.end();
    await writeFile(path, await complete(before, files));
    const gmrc = JSON.parse(await readFile(join(root, ".gmrc"), "utf8")) as object;
    const settings = {
      ...gmrc,
      migrationsFolder: join(root, "migrations"),
      connectionString: database("development"),
      shadowConnectionString: database("shadow"),
      rootConnectionString: cluster.url,
      // As src/migrate.ts has it: graphile-worker's schema comes first.
      beforeAllMigrations: [
        { _: "command" as const, command: `graphile-worker --schema-only -c "$GM_DBURL"` },
      ],
    };
    await commit(settings, message);
  } catch (error) {
    await writeFile(path, before);
    throw error;
  } finally {
    await othersHaveLeft(cluster.url);
    await cluster.remove();
  }
}

/** With its ends: what every release has in it, and what says in the database that it has run. */
async function complete(current: string, files: readonly string[]): Promise<string> {
  const included = new Set(
    [...current.matchAll(/^--!include (\S+)$/gm)].map(([, file = ""]) => file),
  );
  const missing = files.filter((file) => !included.has(file));
  const all = [current.trim(), ...missing.map((file) => `--!include ${file}`)].join("\n");
  const { name, hash } = latest();
  const texts = await Promise.all(
    [...included, ...missing].map((file) => readFile(join(root, "sql", file), "utf8")),
  );
  const next = String(Number(name) + 1).padStart(6, "0");
  return `${all}\n${marker(next, [hash, all, ...texts].join("\n"))}`;
}

/** graphile-migrate keeps its pools for a moment and ends the process if they break. */
async function othersHaveLeft(url: string): Promise<void> {
  const others = connect(url, { max: 1 });
  await until(
    async () =>
      (
        await others`
          select from pg_stat_activity
          where backend_type = 'client backend' and pid <> pg_backend_pid()`
      ).count === 0,
    "graphile-migrate to close its connections",
  );
  await others.end();
}
