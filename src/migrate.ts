import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Logger as MigrateLogger, migrate as runCommitted } from "graphile-migrate";
import { Logger as WorkerLogger, runMigrations } from "graphile-worker";
import { installedVersion } from "./database/calls.ts";
import { connect, type Sql } from "./database/connect.ts";
import { pgUrl } from "./database/dial.ts";
import { refuseTransactionPooler } from "./database/pooler.ts";
import { WebhookpubError } from "./errors.ts";
import { databaseUrl, root, runs } from "./config.ts";
import { version } from "./version.ts";

const APPLICATION_NAME = "webhookpub-migrate";
const LEDGER_HINT = `Your application uses graphile-migrate, too, and its ledger has room for one owner.
Install webhookpub with your own migrations instead: run \`npx graphile-worker --schema-only\`,
then add what \`${runs("sql")}\` prints to your migrations.`;

/**
 * Installs or upgrades graphile-worker's schema and webhookpub in a database. Safe to
 * repeat; a second one at the same time waits for the first.
 *
 * @throws WebhookpubError WH030 when graphile_migrate there belongs to somebody else.
 */
export async function migrate(
  url: string,
  log: (line: string) => void = console.log,
): Promise<void> {
  await refuseTransactionPooler(url);
  const sql = connect(url, {
    max: 1,
    onnotice: (notice) => {
      if (notice["severity"] !== "WARNING") return;
      log(`WARNING:  ${notice["message"] ?? ""}`);
      if (notice["hint"]) log(`HINT:  ${notice["hint"]}`);
    },
  });
  try {
    // graphile-migrate's own lock refuses instead of waiting.
    await sql`select pg_advisory_lock(2003006834, 2)`;
    if (await isSomebodyElses(sql)) {
      await settle(sql, log);
      return;
    }
    await settlePrivileges(sql);
    const quiet = () => (level: string, message: string) => {
      if (level === "error" || level === "warning") console.error(message);
    };
    const connectionString = pgUrl(url, APPLICATION_NAME);
    await runMigrations({ connectionString, logger: new WorkerLogger(quiet) });
    const gmrc = JSON.parse(await readFile(join(root, ".gmrc"), "utf8")) as object;
    await runCommitted({
      ...gmrc,
      connectionString,
      migrationsFolder: join(root, "migrations"),
      logger: new MigrateLogger(quiet),
    });
    await poolIsClosed(sql);
    await settle(sql, log);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** Again, each time: the roles may be allowed by now, and graphile-worker's tables new. */
async function settle(sql: Sql, log: (line: string) => void): Promise<void> {
  await settlePrivileges(sql);
  const [installed] = await sql<[{ version: string; roles: boolean }]>`
    select webhookpub.version(), webhookpub.install_roles() as roles`;
  log(`webhookpub ${installed.version} is installed`);
}

/** graphile-migrate keeps its pool for 200 ms and ends the process if it breaks meanwhile. */
async function poolIsClosed(sql: Sql): Promise<void> {
  for (;;) {
    const open = await sql`
      select from pg_stat_activity where application_name = ${APPLICATION_NAME}
        and datname = current_database()`;
    if (open.count === 0) return;
    await sleep(20);
  }
}

/** Before anything is upgraded: what a restore opened is told from what a migration makes. */
async function settlePrivileges(sql: Sql): Promise<void> {
  const [row] = await sql<[{ found: boolean }]>`
    select to_regprocedure('webhookpub.settle_privileges(boolean)') is not null as found`;
  if (row.found) await sql`select webhookpub.settle_privileges()`;
}

/**
 * Whether the application's own migrations have installed webhookpub, of this version: then there
 * is nothing to migrate.
 *
 * @throws WebhookpubError WH030 when they have not, or another version, and a migration of ours
 *   would not know where it stands
 */
async function isSomebodyElses(sql: Sql): Promise<boolean> {
  const installed = await installedVersion(sql);
  const { ours, foreign } = await readLedger(sql);
  if (installed !== null && ours === 0) {
    if (installed === version) return true;
    throw new WebhookpubError(
      "WH030",
      `webhookpub ${installed} was installed by migrations of your own, and this is ${version}`,
      `Add what \`${runs("sql")} --from ${installed}\` prints to them.`,
    );
  }
  if (foreign === undefined) return false;
  throw new WebhookpubError(
    "WH030",
    `the ledger graphile_migrate.migrations of this database belongs to somebody else: its ${foreign} is not webhookpub's`,
    LEDGER_HINT,
  );
}

/** How many migrations of ours the ledger has, and one that is not. */
async function readLedger(sql: Sql): Promise<{ ours: number; foreign: string | undefined }> {
  const [ledger] = await sql<[{ found: boolean }]>`
    select to_regclass('graphile_migrate.migrations') is not null as found`;
  if (!ledger.found) return { ours: 0, foreign: undefined };
  const folder = join(root, "migrations", "committed");
  const files = await readdir(folder);
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), "utf8")));
  const hashes = texts.map((text) => /^--! Hash: (\S+)$/m.exec(text)?.[1]);
  const rows = await sql<{ filename: string; hash: string }[]>`
    select filename, hash from graphile_migrate.migrations order by filename`;
  // By hash: the names that graphile-migrate goes by are only numbers.
  const foreign = rows.filter((row) => !hashes.includes(row.hash));
  return { ours: rows.length - foreign.length, foreign: foreign[0]?.filename };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  try {
    await migrate(databaseUrl());
  } catch (error) {
    console.error(error instanceof WebhookpubError ? error.report() : error);
    process.exitCode = 1;
  }
}
