import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { root } from "../../src/config.ts";
import { connect } from "../../src/database/connect.ts";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { migrate } from "../../src/migrate.ts";

/** The database that test databases are cloned from. */
export const TEMPLATE = "webhookpub_template";

/** The connection string of another database of the same cluster. */
export function databaseOf(clusterUrl: string, name: string): string {
  const url = new URL(clusterUrl);
  url.pathname = `/${name}`;
  return url.href;
}

/** Starts a PostgreSQL for tests and migrates its template database. */
export async function startTestCluster(settings: readonly string[] = []) {
  const cluster = await startTemporaryPostgres({
    binaries: process.env["PG_BIN"],
    settings: [
      "fsync=off",
      "max_connections=300",
      "deadlock_timeout=200ms",
      "max_prepared_transactions=10",
      ...settings,
    ],
  });
  const sql = connect(cluster.url, { max: 1 });
  await sql.unsafe(`create database ${TEMPLATE}`);
  await migrate(databaseOf(cluster.url, TEMPLATE), () => {});
  await applyCurrent(databaseOf(cluster.url, TEMPLATE));
  await sql.end();
  return cluster;
}

/** What is being developed: migrations/current.sql, with the files of sql/ that it includes. */
async function applyCurrent(url: string): Promise<void> {
  const current = await readFile(join(root, "migrations/current.sql"), "utf8");
  const parts = await Promise.all(
    current.split(/^--!include (\S+)$/m).map((text, i) =>
      // Every second one is a path.
      i % 2 === 0 ? Promise.resolve(text) : readFile(join(root, "sql", text), "utf8"),
    ),
  );
  const sql = connect(url, { max: 1 });
  await sql.begin((tx) => tx.unsafe(parts.join("\n")));
  await sql.end();
}
