import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Logger as MigrateLogger, migrate as runCommitted } from "graphile-migrate";
import { Logger as WorkerLogger, runMigrations } from "graphile-worker";
import {
  FIRST_OF_OLD_CHAIN,
  committedObjects,
  committedTables,
  committedTexts,
  currentText,
  ledgerHashes,
  migrationsFolder,
} from "./committed.ts";
import { databaseUrl, root, runs } from "./config.ts";
import { lastMigration } from "./database/calls.ts";
import { connect, type Sql } from "./database/connect.ts";
import { pgUrl } from "./database/dial.ts";
import { refuseTransactionPooler } from "./database/pooler.ts";
import { WebhookpubError } from "./errors.ts";
import { refuseBreakingUpgrade } from "./graphile_worker.ts";
import { LOCK_MS, PATIENCE_MS, patiently } from "./patience.ts";
import { checkDatabase } from "./preflight.ts";
import { reportOf } from "./refusal.ts";
import { differs, older } from "./schema.ts";

const APPLICATION_NAME = "webhookpub-migrate";
/** What sessions of graphile-worker's and graphile-migrate's have of their own here. */
const SESSION = { application_name: APPLICATION_NAME, lock_timeout: String(LOCK_MS) };
const LEDGER_HINT = `Your application uses graphile-migrate, too, and its ledger has room for one owner.
Install webhookpub with your own migrations instead: run \`npx graphile-worker --schema-only\`,
then add what \`${runs("sql")}\` prints to your migrations: docs/migrations.md says how.`;

interface Options {
  /** Also where workers of an older graphile-worker could not go on. */
  readonly upgradeGraphileWorker?: boolean;
  /** How long it comes again for a lock that somebody holds. */
  readonly patienceMs?: number;
}

/**
 * Installs or upgrades graphile-worker's schema and webhookpub in a database, and puts back what
 * is gone. Safe to repeat; a second one at the same time waits for the first. Nobody else waits for
 * it for longer than a migration takes.
 *
 * @param log gets what there is to say, a line at a time
 * @throws WebhookpubError WH030 when what is there is no state that can be upgraded, WH031 when
 *   a right is missing, WH032 to WH034 when the connection or graphile-worker's schema won't do,
 *   WH036 when somebody holds what it has to lock
 */
export async function migrate(
  url: string,
  log: (line: string) => void = console.log,
  { upgradeGraphileWorker = false, patienceMs = PATIENCE_MS }: Options = {},
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
    await sql`select set_config('lock_timeout', ${String(LOCK_MS)}, false)`;
    const ours = await isOursToMigrate(sql);
    let isNew = (await lastMigration(sql)) === null;
    await checkDatabase(sql);
    await patiently(sql, log, patienceMs, async () => {
      if (ours) await installGraphileWorker(url, upgradeGraphileWorker);
      await settlePrivileges(sql);
      if (ours) await runCommittedMigrations(sql, url);
      if (isNew) await runCurrent(sql);
      isNew = false;
      await putBack(sql, log);
      // Again, each time: the roles may be allowed by now, and graphile-worker's tables new.
      await sql`select webhookpub.install_roles()`;
    });
    const [installed] = await sql<[{ version: string }]>`select webhookpub.version()`;
    log(`webhookpub ${installed.version} is installed`);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

const quiet = () => (level: string, message: string) => {
  if (level === "error" || level === "warning") console.error(message);
};

async function installGraphileWorker(url: string, anyway: boolean): Promise<void> {
  const plugin: GraphileConfig.Plugin = {
    name: "WebhookpubUpgradePlugin",
    version: "1",
    worker: {
      middleware: {
        async migrate(next, event) {
          if (!anyway) await refuseBreakingUpgrade(event);
          return await next();
        },
      },
    },
  };
  await runMigrations({
    preset: { plugins: [plugin] },
    connectionString: pgUrl(url, SESSION),
    logger: new WorkerLogger(quiet),
  });
}

async function runCommittedMigrations(sql: Sql, url: string): Promise<void> {
  const gmrc = JSON.parse(await readFile(join(root, ".gmrc"), "utf8")) as object;
  try {
    await runCommitted({
      ...gmrc,
      connectionString: pgUrl(url, SESSION),
      migrationsFolder,
      logger: new MigrateLogger(quiet),
    });
  } finally {
    await poolIsClosed(sql);
  }
}

/** In the repository a new database has what the next release brings: there is no way there later. */
async function runCurrent(sql: Sql): Promise<void> {
  const current = currentText();
  if (current !== undefined) await sql.begin((tx) => tx.unsafe(current));
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
 * Whether our migrations are to run: not where an application's own have installed webhookpub.
 *
 * @throws WebhookpubError WH030 when they have not, or another version, or it is newer than this,
 *   or a state that leads nowhere
 */
async function isOursToMigrate(sql: Sql): Promise<boolean> {
  const last = await lastMigration(sql);
  const difference = last && differs(last);
  if (last && older(last) === "package") throw difference;
  const hashes = ledgerHashes();
  const rows = await readLedger(sql);
  const foreign = rows.filter((row) => !hashes.includes(row.hash));
  const isMixed = last !== null && foreign.length > 0 && foreign.length < rows.length;
  if (isMixed || rows.some(({ hash }) => hash === FIRST_OF_OLD_CHAIN)) {
    throw new WebhookpubError(
      "WH030",
      "this database has a state of development, from before the first release",
      `Nothing leads from there to a release. Keep what you need of it, such as the webhooks, then
remove it with ${runs("uninstall")} and migrate again.`,
    );
  }
  if (last && foreign.length === rows.length) {
    if (difference) throw older(last) === "database" ? await isForTheirs(sql) : difference;
    return false;
  }
  if (foreign[0]) {
    throw new WebhookpubError(
      "WH030",
      `the ledger graphile_migrate.migrations of this database belongs to somebody else: its ${foreign[0].filename} is not webhookpub's`,
      LEDGER_HINT,
    );
  }
  // Somebody has dropped the schema, and the ledger does not know.
  if (!last && rows.length > 0) await forgetDropped(sql, hashes);
  return true;
}

async function isForTheirs(sql: Sql): Promise<WebhookpubError> {
  const [{ version }] = await sql<[{ version: string }]>`select webhookpub.version()`;
  return new WebhookpubError(
    "WH030",
    `webhookpub ${version} was installed by migrations of your own, and this is newer`,
    `Add what \`${runs("sql")} --from ${version}\` prints to them.`,
  );
}

/** By hash: the names that graphile-migrate goes by are only numbers. */
async function readLedger(sql: Sql): Promise<{ filename: string; hash: string }[]> {
  const [ledger] = await sql<[{ found: boolean }]>`
    select to_regclass('graphile_migrate.migrations') is not null as found`;
  if (!ledger.found) return [];
  return await sql`select filename, hash from graphile_migrate.migrations order by filename`;
}

async function forgetDropped(sql: Sql, hashes: readonly string[]): Promise<void> {
  await sql`
    delete from graphile_migrate.migrations
    where hash = any (${hashes as string[]}) and to_regnamespace('webhookpub') is null`;
}

/**
 * Makes functions and views anew that are gone, as after `drop schema public cascade`; all of
 * them, for they may lean on one another.
 *
 * @throws WebhookpubError WH030 when a table is gone: its rows are nowhere else
 */
async function putBack(sql: Sql, log: (line: string) => void): Promise<void> {
  const texts = committedTexts();
  const objects = committedObjects(texts);
  const [gone] = await sql<[{ tables: string[]; objects: string[] }]>`
    select
      array(
        select t.name from unnest(${committedTables(texts)}::text[]) as t (name)
        where to_regclass(t.name) is null
      ) as tables,
      array(
        select o.name from unnest(${[...objects.keys()]}::text[]) as o (name)
        where to_regclass(o.name) is null and not exists (
          select
          from pg_proc as p
          where p.pronamespace = to_regnamespace(split_part(o.name, '.', 1))
            and p.proname = split_part(o.name, '.', 2)
        )
      ) as objects`;
  if (gone.tables.length > 0) {
    throw new WebhookpubError(
      "WH030",
      `${gone.tables.join(", ")} is gone from this database`,
      "Restore it from a backup, or uninstall webhookpub and install it anew.",
    );
  }
  if (gone.objects.length === 0) return;
  await sql.begin(async (tx) => {
    await tx`create extension if not exists pgcrypto`;
    await tx`set local check_function_bodies = off`;
    for (const text of objects.values()) await tx.unsafe(text);
    await tx`select webhookpub.settle_privileges(p_quietly => true)`;
  });
  log(`put back what was gone: ${gone.objects.join(", ")}`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  try {
    await migrate(databaseUrl());
  } catch (error) {
    console.error(reportOf(error));
    process.exitCode = 1;
  }
}
