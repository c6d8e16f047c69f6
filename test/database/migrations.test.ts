import { randomBytes } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Logger, migrate as migrateApplication } from "graphile-migrate";
import { runMigrations } from "graphile-worker";
import { Webhook } from "standardwebhooks";
import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { root } from "../../src/config.ts";
import { migrate as migrateWith } from "../../src/migrate.ts";
import { version } from "../../src/version.ts";
import { emptyDatabase, type TestDatabase, testDatabase } from "../support/database.ts";
import type { AnySql } from "../support/named.ts";
import { publishBy } from "../support/publish.ts";
import { runProgram } from "../support/program.ts";
import { sqlFiles } from "../support/sql_files.ts";
import { until } from "../support/until.ts";
import { createWebhookWith } from "../support/webhook.ts";
import { leaseRequests } from "../support/leases.ts";

/** `npm run migrate`, without npm. */
const migrate = (url: string) => runProgram("src/migrate.ts", { DATABASE_URL: url });

/** Everything that a file of sql/ can define, as the catalog has it. */
async function behaviour(sql: AnySql): Promise<Record<string, unknown>> {
  // Names are then always written with their schemas.
  await sql`set local search_path = pg_catalog`;
  const functions = await sql`
    select
      p.oid::regprocedure::text as name,
      pg_get_functiondef(p.oid) as definition,
      obj_description(p.oid, 'pg_proc') as comment,
      p.proacl::text as acl,
      p.proowner::regrole::text as owner
    from pg_proc as p
    where p.pronamespace = 'webhookpub'::regnamespace
      or (p.pronamespace = 'public'::regnamespace and p.proname like 'webhook%')
    order by 1`;
  const relations = await sql`
    select
      c.oid::regclass::text as name,
      case when c.relkind = 'v' then pg_get_viewdef(c.oid) end as definition,
      c.reloptions::text as options,
      c.relacl::text as acl,
      c.relowner::regrole::text as owner,
      (
        select json_object_agg(d.objsubid, d.description order by d.objsubid)
        from pg_description as d
        where d.objoid = c.oid and d.classoid = 'pg_class'::regclass
      ) as comments,
      (
        select json_agg(pg_get_triggerdef(g.oid) order by g.tgname)
        from pg_trigger as g
        where g.tgrelid = c.oid and not g.tgisinternal
      ) as triggers
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
    order by 1`;
  return Object.fromEntries(
    [...functions, ...relations].map((row) => [String(row["name"]), { ...row }]),
  );
}

/** The schemas and extensions that an installation would bring. */
async function installed(sql: Sql): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select n.nspname as name from pg_namespace as n
    where n.nspname in ('webhookpub', 'graphile_worker')
    union all
    select e.extname from pg_extension as e where e.extname = 'pgcrypto'
    order by 1`;
  return rows.map((row) => row.name);
}

const installedVersion = async (sql: Sql) => {
  const [row] = await sql<[{ version: string }]>`select webhookpub.version()`;
  return row.version;
};

void t.test("npm run migrate installs everything in an empty database, and repeats", async (t) => {
  const { sql, url } = await emptyDatabase(t);
  t.strictSame(await installed(sql), []);
  const first = await migrate(url);
  t.equal(first.code, 0, first.output);
  t.equal(first.output.trim(), `webhookpub ${version} is installed`);
  t.strictSame(await installed(sql), ["graphile_worker", "pgcrypto", "webhookpub"]);
  t.equal(await installedVersion(sql), version);

  await createWebhookWith(sql);
  await publishBy("webhook_publish_tx", sql);
  await sql`update webhookpub.settings set max_payload_bytes = 1000`;
  const state = async () =>
    await sql.begin(async (tx) => [
      await behaviour(tx),
      ...(await tx`select * from webhookpub.settings`),
      ...(await tx`select * from webhookpub.webhooks`),
      ...(await tx`select * from webhookpub.events`),
      ...(await tx`select * from graphile_migrate.migrations`),
      ...(await tx`select * from graphile_worker.migrations`),
    ]);
  const before = await state();
  const second = await migrate(url);
  t.strictSame(second, { code: 0, output: first.output });
  t.strictSame(await state(), before, "the second time changes nothing");
});

void t.test("two migrations at once both succeed: one waits for the other", async (t) => {
  const { sql, url, session } = await emptyDatabase(t);
  // Holds up whoever comes first in the middle of its work, until both are there.
  const obstacle = session();
  await obstacle`begin`;
  await obstacle`create schema graphile_worker`;
  const both = [migrate(url), migrate(url)];
  let waits: { event: string }[] = [];
  await until(async () => {
    waits = await sql<{ event: string }[]>`
      select wait_event as event from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`;
    return waits.length >= 2;
  }, "both to wait");
  const advisory = waits.filter(({ event }) => event === "advisory");
  t.equal(advisory.length, 1, "the second waits for the first, not beside it");
  await obstacle`rollback`;
  for (const ended of await Promise.all(both)) {
    t.strictSame(ended, { code: 0, output: `webhookpub ${version} is installed\n` });
  }
  t.equal(await installedVersion(sql), version);
});

/** A database as the first of the committed migrations left it. */
async function withFirstMigrations(t: Test, files: readonly string[]): Promise<TestDatabase> {
  const database = await emptyDatabase(t);
  const migrationsFolder = await mkdtemp(join(tmpdir(), "first-"));
  t.teardown(() => rm(migrationsFolder, { recursive: true }));
  await mkdir(join(migrationsFolder, "committed"));
  for (const file of files) {
    await copyFile(
      join(root, "migrations/committed", file),
      join(migrationsFolder, "committed", file),
    );
  }
  await runMigrations({ connectionString: database.url });
  const logger = new Logger(() => () => {});
  await migrateApplication({ connectionString: database.url, migrationsFolder, logger });
  return database;
}

void t.test("whoever holds a lock is named, not waited for in others' way", async (t) => {
  const { sql, url, session } = await withFirstMigrations(t, ["000001-state.sql"]);
  const application = session();
  await application`select set_config('application_name', 'long report', false)`;
  await application`begin`;
  await application`lock table webhookpub.envelopes in access exclusive mode`;
  const lines: string[] = [];
  const refused = await migrateWith(url, (line) => lines.push(line), { patienceMs: 1500 }).catch(
    (error: unknown) => error,
  );
  t.match(refused, { code: "WH036", hint: /End that transaction.*again/ });
  const named = /process \d+ \(long report, idle in transaction\), with .* \d+ s, is in the way$/;
  t.match((refused as Error).message, named);
  t.equal(lines.length, 1, "said once, however often it was tried");
  t.match(lines[0], named);
  t.equal((await sql`select from webhookpub.migrations`).count, 0, "nothing has changed");

  const patient = migrateWith(url, (line) => lines.push(line), { patienceMs: 120_000 });
  await until(() => lines.length === 2, "it to meet the lock again");
  await application`rollback`;
  await patient;
  t.equal(await installedVersion(sql), version);
});

void t.test("what is done already needs no lock that an application may hold", async (t) => {
  const { sql, url, session } = await testDatabase(t);
  const { id } = await createWebhookWith(sql);
  const application = session();
  await application`begin`;
  await publishBy("webhook_publish_tx", application);
  await application`select from webhookpub.webhooks where id = ${id} for update`;
  const lines: string[] = [];
  await migrateWith(url, (line) => lines.push(line));
  t.strictSame(lines, [`webhookpub ${version} is installed`]);
  await application`rollback`;
});

void t.test("a migration locks its tables all at once, or gives up", async (t) => {
  const { sql, session } = await testDatabase(t);
  const migration = session();
  const tables = ["webhookpub.events", "webhookpub.webhooks"];
  await migration`begin`;
  await migration`select webhookpub.lock_tables(variadic ${tables}::text[]::regclass[])`;
  const held = await sql<{ name: string }[]>`
    select l.relation::regclass::text as name from pg_locks as l
    where l.mode = 'AccessExclusiveLock' and l.locktype = 'relation'
      and l.database = (select oid from pg_database where datname = current_database())
    order by 1`;
  t.strictSame([...held], [{ name: "webhookpub.events" }, { name: "webhookpub.webhooks" }]);
  const [wait] = await migration<[{ ms: number }]>`
    select extract(epoch from current_setting('lock_timeout')::interval) * 1000 as ms`;
  const [deadlock] = await sql<[{ ms: number }]>`
    select extract(epoch from current_setting('deadlock_timeout')::interval) * 1000 as ms`;
  t.ok(Number(wait.ms) * tables.length < Number(deadlock.ms), "before PostgreSQL ends anybody");
  await migration`rollback`;

  const publisher = session();
  await publisher`begin`;
  await publisher`select from webhookpub.webhooks`;
  const refused = migration`select webhookpub.lock_tables(variadic ${tables}::text[]::regclass[])`;
  await t.rejects(refused, { code: "55P03" });
  await publishBy("webhook_publish_tx", publisher);
  await publisher`commit`;
});

void t.test("a database whose owner uses graphile-migrate, too, is refused", async (t) => {
  const { sql, url } = await emptyDatabase(t);
  const migrationsFolder = await mkdtemp(join(tmpdir(), "application-"));
  t.teardown(() => rm(migrationsFolder, { recursive: true }));
  await mkdir(join(migrationsFolder, "committed"));
  await writeFile(
    join(migrationsFolder, "committed", "000001-application.sql"),
    "--! Previous: -\n--! Hash: sha1:0\n--! AllowInvalidHash\n\ncreate table messages (id text);\n",
  );
  const logger = new Logger(() => () => {});
  await migrateApplication({ connectionString: url, migrationsFolder, logger });
  t.equal((await sql`select from messages`).count, 0, "the application's migration is there");

  const { code, output } = await migrate(url);
  t.equal(code, 1);
  t.match(output, /^ERROR: {2}WH030: .*graphile_migrate\.migrations.* 000001\.sql /);
  t.match(output, /^HINT: {2}\S.*\n[^]*--schema-only[^]*webhookpub\.ts sql/m, "what to do");
  t.strictSame(await installed(sql), [], "nothing is installed");
  const ledger = await sql`select filename from graphile_migrate.migrations`;
  t.strictSame([...ledger], [{ filename: "000001.sql" }]);
});

void t.test("without DATABASE_URL npm run migrate says what to set", async (t) => {
  const { code, output } = await runProgram("src/migrate.ts", {});
  t.equal(code, 1);
  t.match(output, /^ERROR: {2}WH030: DATABASE_URL is not set\nHINT: {2}\S/);
});

void t.test("pgcrypto may live in a schema of its own", async (t) => {
  const { sql, url } = await emptyDatabase(t);
  await sql`create schema extensions`;
  await sql`create extension pgcrypto schema extensions`;
  const { code, output } = await migrate(url);
  t.equal(code, 0, output);

  const { id, secret } = await createWebhookWith(sql);
  const eventId = await publishBy("webhook_publish_tx", sql, { data: { subject: "Grüße" } });
  t.match(eventId, /^evt_[0-9a-f]{32}$/);
  const derived = await publishBy("webhook_publish_tx", sql, { message_id: "msg_1" });
  t.match(derived, /^evt_[0-9a-f]{32}$/);
  await sql`select webhookpub.fan_out()`;
  const [rotated] = await sql<[{ secret: string }]>`
    select webhookpub.rotate_secret(${id}) as secret`;
  const requests = await leaseRequests(sql, [id]);
  t.equal(requests.length, 2);
  for (const { headers, body } of requests) {
    for (const one of [secret, rotated.secret]) {
      t.match(new Webhook(one).verify(body, headers), { event: "email.sent" });
    }
  }
});

void t.test("whoever owns the database can install, superuser or not", async (t) => {
  const { sql, as } = await emptyDatabase(t);
  const owner = `owner_${randomBytes(6).toString("hex")}`;
  const [{ database }] = await sql<[{ database: string }]>`select current_database() as database`;
  await sql.unsafe(`create role ${owner} login`);
  await sql.unsafe(`alter database ${database} owner to ${owner}`);
  t.teardown(async () => {
    await sql.unsafe(`alter database ${database} owner to postgres`);
    await sql.unsafe(`drop owned by ${owner} cascade`);
    await sql.unsafe(`drop role ${owner}`);
  });
  const session = as(owner);
  const { host, port } = session.options;
  const { code, output } = await migrate(
    `postgres://${owner}@${host.join()}:${port.join()}/${database}`,
  );
  t.equal(code, 0, output);
  t.equal(await installedVersion(session), version);
  const { id } = await createWebhookWith(session);
  await publishBy("webhook_publish_tx", session);
  await session`select webhookpub.fan_out()`;
  t.equal((await session`select from webhookpub.lease_deliveries(${[id]})`).count, 1);
  t.equal((await session`select from webhookpub.maintain()`).count > 0, true);
});

void t.test("applying sql/ again over the committed migrations changes nothing", async (t) => {
  const { sql } = await testDatabase(t);
  const files = await sqlFiles();
  t.ok(files.length > 50, `${files.length} files`);
  await sql
    .begin(async (tx) => {
      const before = await behaviour(tx);
      await tx`set local check_function_bodies = off`;
      for (const file of files) await tx.unsafe(file.text);
      const after = await behaviour(tx);
      t.strictSame(Object.keys(after), Object.keys(before), "no object more or less");
      for (const [name, definition] of Object.entries(before)) {
        t.strictSame(after[name], definition, name);
      }
      throw new Error("undo");
    })
    .catch((error: Error) => t.equal(error.message, "undo"));
});

void t.test("an upgrade keeps what is there, and what was under way goes on", async (t) => {
  const baseline = ["000001-state.sql", "000002-behaviour.sql"];
  const { sql, url } = await withFirstMigrations(t, baseline);

  const { id, secret } = await createWebhookWith(sql, { p_filters: { labels: ["vip"] } });
  const gone = await createWebhookWith(sql);
  await sql`select webhookpub.rotate_secret(${id})`;
  const publishVip = () => publishBy("webhook_publish_tx", sql, { labels: ["vip"] });
  const leased = await publishVip();
  await sql`select webhookpub.fan_out()`;
  const leases = await sql<{ delivery_id: string; attempt: number; started_at: string }[]>`
    select * from webhookpub.lease_deliveries(${[id]})`;
  await sql`select webhookpub.delete_webhook(${gone.id})`;
  const fannedOut = await publishVip();
  await sql`select webhookpub.fan_out()`;
  const pending = await publishVip();
  await publishBy("webhook_publish_best_effort_tx", sql, { event_type: "no.such_type" });
  await sql`update webhookpub.settings set max_payload_bytes = 1000`;

  const kept = async () => [
    ...(await sql`select envelope from webhookpub.envelopes_by_event order by event_id`),
    ...(await sql`select event_id, webhook_id, status, attempts from webhookpub.deliveries order by id`),
    ...(await sql`select id, user_id, url, events, filters, deleted_at from webhookpub.webhooks order by id`),
    ...(await sql`select webhook_id, secret, expires_at from webhookpub.secrets order by id`),
    ...(await sql`select event_type, sqlstate, data from webhookpub.publish_failures`),
    ...(await sql`select max_payload_bytes from webhookpub.settings`),
  ];
  const before = await kept();
  t.equal(before.length, 3 + 3 + 2 + 2 + 1 + 1, "something of everything");
  const { code, output } = await migrate(url);
  t.equal(code, 0, output);
  t.strictSame(await kept(), before);

  const [lease] = leases;
  if (!lease) throw new Error("nothing was leased");
  await sql`
    select webhookpub.record_attempts(
      array[${lease.delivery_id}], array[${lease.attempt}::integer],
      array[${lease.started_at}::timestamptz], array[5], array['responded'], array[200],
      array[null], array['ok'], array[null])`;
  await sql`select webhookpub.fan_out()`;
  const rest = await leaseRequests(sql, [id]);
  const sent = rest.map(({ headers, body }) => new Webhook(secret).verify(body, headers));
  t.strictSame(
    new Set(sent.map((envelope) => (envelope as { id: string }).id)),
    new Set([fannedOut, pending]),
  );
  const deliveries = await sql`
    select d.event_id, d.status from webhookpub.deliveries as d
    where d.webhook_id = ${id} order by d.created_at`;
  t.strictSame(
    [...deliveries],
    [
      { event_id: leased, status: "delivered" },
      { event_id: fannedOut, status: "pending" },
      { event_id: pending, status: "pending" },
    ],
  );
  t.equal((await sql`select from webhookpub.maintain()`).count > 0, true);
});

void t.test("the schema is of the package's version", async (t) => {
  const { sql } = await testDatabase(t);
  const text = await readFile(new URL("../../package.json", import.meta.url), "utf8");
  t.equal(await installedVersion(sql), (JSON.parse(text) as { version: string }).version);
});
