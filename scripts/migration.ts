// `npm run migration`: freezes migrations/current.sql as the next committed migration,
// with the files of sql/ that it includes; checks it on an embedded PostgreSQL.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { commit } from "graphile-migrate";
import { connect } from "../src/database/connect.ts";
import { latest, marker } from "../src/committed.ts";
import { root } from "../src/config.ts";
import { startTemporaryPostgres } from "../src/database/embedded_postgres.ts";
import { until } from "../test/support/until.ts";

const cluster = await startTemporaryPostgres();
const database = (name: string) => cluster.url.replace(/postgres$/, name);
try {
  const sql = connect(cluster.url, { max: 1 });
  await sql`create database development`;
  await sql.end();
  await addMarker();
  const gmrc = JSON.parse(await readFile(join(root, ".gmrc"), "utf8")) as object;
  await commit({
    ...gmrc,
    migrationsFolder: join(root, "migrations"),
    connectionString: database("development"),
    shadowConnectionString: database("shadow"),
    rootConnectionString: cluster.url,
    // As src/migrate.ts has it: graphile-worker's schema comes first.
    beforeAllMigrations: [
      { _: "command", command: `graphile-worker --schema-only -c "$GM_DBURL"` },
    ],
  });
  // graphile-migrate keeps its pools for a moment and ends the process if they break.
  const others = connect(cluster.url, { max: 1 });
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
} finally {
  await cluster.remove();
}

/** The migration says in the database that it has run: for workers, and whoever installs it. */
async function addMarker(): Promise<void> {
  const path = join(root, "migrations/current.sql");
  const current = await readFile(path, "utf8");
  const { name, hash } = latest();
  const included = await Promise.all(
    [...current.matchAll(/^--!include (\S+)$/gm)].map(([, file = ""]) =>
      readFile(join(root, "sql", file), "utf8"),
    ),
  );
  const next = String(Number(name) + 1).padStart(6, "0");
  await writeFile(
    path,
    `${current.trim()}\n${marker(next, [hash, current, ...included].join("\n"))}`,
  );
}
