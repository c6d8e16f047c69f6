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
  await sql.end();
  return cluster;
}
