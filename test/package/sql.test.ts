// `webhookpub sql`, through the tools that would take it.
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { commit, Logger, migrate as migrateHost } from "graphile-migrate";
import t, { type Test } from "tap";
import { root } from "../../src/config.ts";
import type { Sql } from "../../src/database/connect.ts";
import { sqlFile } from "../../src/sql_file.ts";
import { version } from "../../src/version.ts";
import { databaseOf } from "../support/cluster.ts";
import { contents, migrated } from "../support/contents.ts";
import { emptyDatabase } from "../support/database.ts";
import { runProgram } from "../support/program.ts";
import { findPsql, runPsql } from "../support/psql.ts";
import { startReceiver } from "../support/receiver.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

async function delivers(t: Test, sql: Sql, url: string): Promise<void> {
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const receiver = await startReceiver(t);
  await sql`select webhookpub.create_webhook('user_1', ${receiver.url()}, '{*}')`;
  await startWorkerProcess(t, url);
  await sql`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
  await receiver.received(1);
}

/** The same connection string, its sessions with a name to be found by. */
function named(url: string): string {
  const own = new URL(url);
  own.searchParams.set("application_name", "host");
  return own.href;
}

const psql = findPsql() ?? "";

void t.test(
  "through psql it makes what migrate makes, and is one transaction",
  { skip: psql === "" && !process.env["CI"] && "psql is not here" },
  async (t) => {
    const { sql, url } = await emptyDatabase(t);
    const folder = await mkdtemp(join(tmpdir(), "sql-"));
    t.teardown(() => rm(folder, { recursive: true }));
    const file = join(folder, "webhookpub.sql");
    const bare = await runProgram("src/cli/webhookpub.ts sql", {});
    t.equal(bare.code, 0);
    await writeFile(file, bare.output);

    const without = await runPsql(psql, url, `begin;\n\\i ${file}\ncommit;`);
    t.match(
      without.output,
      /graphile_worker is missing\nHINT: {2}.*--schema-only.*--graphile-worker/,
    );
    const apart = await runPsql(psql, url, `\\i ${file}`);
    t.match(apart.output, /has to run in one transaction\nHINT: {2}.*--single-transaction/);
    t.equal((await sql`select from pg_namespace where nspname = 'webhookpub'`).count, 0);

    await writeFile(file, await sqlFile({ withWorker: true }));
    const typed = `set search_path = public;\nbegin;\n\\i ${file}\nshow search_path;\ncommit;`;
    const { code, output } = await runPsql(psql, url, typed);
    t.equal(code, 0, output);
    t.match(output, / search_path \n-+\n public\n/, "the rest of a host's transaction is its own");
    const twice = await runPsql(psql, url, `begin;\n\\i ${file}\ncommit;`);
    t.match(twice.output, `ERROR:  webhookpub ${version} is in this database already`);
    t.match(twice.output, /HINT: {2}.*once\..* sql --from/);
    t.equal(twice.output.match(/ERROR/g)?.length, 1, "and that is all");
    t.strictSame(await contents(sql), await migrated(t));
    t.strictSame(
      await runProgram("src/cli/webhookpub.ts migrate", { DATABASE_URL: url }),
      { code: 0, output: `webhookpub ${version} is installed\n` },
      "migrate finds it there",
    );
    await delivers(t, sql, url);
  },
);

void t.test("a host with graphile-migrate and a shadow database installs it", async (t) => {
  const { sql, url } = await emptyDatabase(t);
  const shadow = await emptyDatabase(t);
  const migrationsFolder = await mkdtemp(join(tmpdir(), "host-"));
  t.teardown(() => rm(migrationsFolder, { recursive: true }));
  await mkdir(join(migrationsFolder, "committed"));
  const current = join(migrationsFolder, "current.sql");
  const settings = {
    migrationsFolder,
    connectionString: named(url),
    shadowConnectionString: named(shadow.url),
    rootConnectionString: named(databaseOf(url, "postgres")),
    logger: new Logger(() => () => {}),
    beforeAllMigrations: [
      { _: "command" as const, command: `graphile-worker --schema-only -c "$GM_DBURL"` },
    ],
  };
  // It keeps its pools for a moment and ends the process if they break.
  t.teardown(() =>
    until(
      async () =>
        (await sql`select from pg_stat_activity where application_name = 'host'`).count === 0,
      "graphile-migrate to close its connections",
    ),
  );
  await writeFile(current, "--! Message: own\n\ncreate table messages (id text primary key);\n");
  await commit(settings);
  await migrateHost(settings);
  const refused = await runProgram("src/cli/webhookpub.ts migrate", { DATABASE_URL: url });
  t.match(refused.output, /WH030: the ledger.*somebody else/, "our ledger would be theirs");

  await promisify(execFile)(
    "env",
    ["-i", `PATH=${process.env["PATH"]}`, "npx", "graphile-worker", "--schema-only", "-c", url],
    { cwd: root },
  );
  await writeFile(current, `--! Message: webhookpub\n\n${await sqlFile({ withWorker: false })}`);
  await commit(settings);
  await migrateHost(settings);
  const ledger = await sql`select filename from graphile_migrate.migrations order by filename`;
  t.equal(ledger.count, 2, "both are the host's migrations");
  t.strictSame(await contents(sql), await migrated(t));
  t.match(await readFile(current, "utf8"), /^\s*(--.*\s*)?$/, "it was committed");
  const found = await runProgram("src/cli/webhookpub.ts migrate", { DATABASE_URL: url });
  t.strictSame(found, { code: 0, output: `webhookpub ${version} is installed\n` });
  await delivers(t, sql, url);
});

void t.test("an upgrade begins at a release", async (t) => {
  const from = (given: string) => runProgram(`src/cli/webhookpub.ts sql --from ${given}`, {});
  t.match(await from(version), { code: 0, output: /nothing to run/ });
  t.match(await from("0.0.9"), { code: 1, output: /no release 0\.0\.9 before/ });
  const { sql, url } = await emptyDatabase(t);
  await sql.unsafe(await sqlFile({ withWorker: true }));
  await sql`
    create or replace function webhookpub.version() returns text
      language sql immutable return '0.0.9'`;
  await sql`update webhookpub.migrations set name = '000001'`;
  const { code, output } = await runProgram("src/cli/webhookpub.ts migrate", { DATABASE_URL: url });
  t.equal(code, 1);
  t.match(output, /WH030: webhookpub 0\.0\.9 was installed by migrations of your own/);
  t.match(output, /^HINT: {2}.*sql --from 0\.0\.9/m);
});
