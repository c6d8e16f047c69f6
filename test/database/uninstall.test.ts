// Removing webhookpub leaves nothing of it, and everything of others.
import { Logger, migrate as migrateApplication } from "graphile-migrate";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeWorkerUtils, Logger as WorkerLogger } from "graphile-worker";
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { connect } from "../../src/database/connect.ts";
import { databaseOf } from "../support/cluster.ts";
import { emptyDatabase } from "../support/database.ts";
import { runProgram } from "../support/program.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { untilNoSessions } from "../support/waiting.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const webhookpub = (url: string, command: string) =>
  runProgram(`src/cli/webhookpub.ts ${command}`, { DATABASE_URL: url });

/** Everything in a database that is not PostgreSQL's own, and the server's roles. */
async function everything(sql: Sql): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select 'schema ' || n.nspname || coalesce(n.nspacl::text, '') as name
    from pg_namespace as n where n.nspname !~ '^pg_(temp|toast)'
    union all
    select p.oid::regprocedure::text || coalesce(p.proacl::text, '') from pg_proc as p
    where p.oid >= 16384
      and not exists (select from pg_depend as d where d.objid = p.oid and d.deptype = 'e')
    union all
    select c.oid::regclass::text || coalesce(c.relacl::text, '') from pg_class as c
    where c.oid >= 16384 and c.relnamespace <> 'pg_toast'::regnamespace
    union all
    select 'policy ' || p.polname || ' on ' || p.polrelid::regclass from pg_policy as p
    union all
    select 'trigger ' || g.tgname from pg_trigger as g where not g.tgisinternal
    union all
    select 'type ' || y.oid::regtype::text from pg_type as y
    where y.oid >= 16384 and y.typnamespace <> 'pg_toast'::regnamespace
    order by 1`;
  return rows.map((row) => row.name);
}

void t.test("it leaves nothing", async (t) => {
  // A server of its own, for the roles are of the whole of it.
  const cluster = await startTemporaryPostgres({
    binaries: process.env["PG_BIN"],
    settings: ["fsync=off"],
  });
  const url = databaseOf(cluster.url, "shop");
  const [admin, sql] = [connect(cluster.url, { max: 1 }), connect(url, { max: 1 })];
  t.teardown(async () => {
    await Promise.all([admin.end({ timeout: 1 }), sql.end({ timeout: 1 })]);
    await cluster.remove();
  });
  await admin`create database shop`;
  const before = await everything(sql);
  t.equal((await webhookpub(url, "migrate")).code, 0);
  await createWebhook(sql);
  await publish(sql, { count: 3 });
  await fanOutAll(sql);
  const worker = await startWorkerProcess(t, url);
  const refused = await webhookpub(url, "uninstall");
  t.equal(refused.code, 1);
  t.match(refused.output, /WH035: \d+ sessions of workers/);
  worker.kill("SIGTERM");
  await worker.ended();
  await untilNoSessions(admin, "shop", "webhookpub-jobs");

  const { code, output } = await webhookpub(url, "uninstall");
  t.equal(code, 0, output);
  t.equal(output, "left: the extension pgcrypto, which others may use\n");
  await sql`drop extension pgcrypto`;
  t.strictSame(await everything(sql), before);
  t.equal((await sql`select from pg_roles where rolname ~ '^webhookpub'`).count, 0);
  t.equal((await webhookpub(url, "migrate")).code, 0, "and it can be installed anew");
});

void t.test("callers are named, and nothing of others' is touched", async (t) => {
  const { sql, url } = await emptyDatabase(t);
  // An application with graphile-migrate and graphile-worker, before webhookpub came.
  const migrationsFolder = await mkdtemp(join(tmpdir(), "application-"));
  t.teardown(() => rm(migrationsFolder, { recursive: true }));
  await mkdir(join(migrationsFolder, "committed"));
  await writeFile(
    join(migrationsFolder, "committed", "000001-application.sql"),
    "--! Previous: -\n--! Hash: sha1:0\n--! AllowInvalidHash\n\ncreate table messages (id text);\n",
  );
  const utils = await makeWorkerUtils({
    connectionString: url,
    logger: new WorkerLogger(() => () => {}),
  });
  await utils.migrate();
  await utils.addJob("note", { n: 1 });
  await utils.release();
  t.equal((await webhookpub(url, "migrate")).code, 0);
  await sql`delete from graphile_migrate.migrations`;
  await migrateApplication({
    connectionString: url,
    migrationsFolder,
    logger: new Logger(() => () => {}),
  });
  await createWebhook(sql);
  await publish(sql);
  await fanOutAll(sql);
  await sql.unsafe(`
    create function public.tell () returns trigger language plpgsql as $$
      begin perform webhook_publish_tx('email.sent', new.id, '{}'); return null; end; $$;
    create trigger tell after insert on messages for each row execute function public.tell();
    create view public.mine as select id from webhookpub.events;
    create function public.copied () returns text language sql return webhookpub.random_event_id();`);
  const before = await everything(sql);

  const listed = await webhookpub(url, "uninstall --dry-run");
  t.equal(listed.code, 0, listed.output);
  for (const caller of [
    "function tell()",
    "trigger tell on messages",
    "view mine",
    "function copied()",
  ]) {
    t.match(listed.output, caller);
  }
  const refused = await webhookpub(url, "uninstall");
  t.equal(refused.code, 1);
  t.match(refused.output, /WH035: webhookpub is still called by .*trigger tell on messages/);
  t.match(refused.output, /HINT: .*--even-if-called/);
  t.strictSame(await everything(sql), before, "nothing was changed");
  t.equal((await sql`select from webhookpub.events`).count, 1);

  const done = await webhookpub(url, "uninstall --even-if-called");
  t.equal(done.code, 0, done.output);
  t.match(done.output, /left: the schema graphile_worker/);
  t.match(done.output, /left: the ledger graphile_migrate/);
  const after = await everything(sql);
  t.notOk(
    after.some((name) => /webhookpub/.test(name)),
    "privileges, policies and all",
  );
  t.equal((await sql`select from graphile_migrate.migrations`).count, 1);
  const jobs = await sql`select task_identifier from graphile_worker.jobs`;
  t.strictSame([...jobs], [{ task_identifier: "note" }]);
  t.ok(after.includes("messages"));
});
