// Whatever the default privileges are and however the database was restored: after `migrate`
// PUBLIC may do nothing, and nobody more than was granted on purpose.
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { maintain } from "../../src/database/calls.ts";
import { connect, type Sql } from "../../src/database/connect.ts";
import { databaseOf } from "../support/cluster.ts";
import { emptyDatabase, type TestDatabase, testDatabase } from "../support/database.ts";
import { NO_DUMP, pgProgram } from "../support/dump.ts";
import { createLogin } from "../support/login.ts";
import { runProgram } from "../support/program.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";

const migrate = (url: string) => runProgram("src/migrate.ts", { DATABASE_URL: url });

/** A role without rights, which may log in; it goes with the test. */
async function stranger(t: Test, { sql }: TestDatabase): Promise<string> {
  const name = `stranger_${randomBytes(6).toString("hex")}`;
  await sql.unsafe(`create role ${name} login`);
  t.teardown(async () => {
    await sql.unsafe(`drop owned by ${name} cascade; drop role ${name}`);
  });
  return name;
}

/** What a role, or PUBLIC, may do with objects of webhookpub, as PostgreSQL answers. */
async function rightsOf(sql: Sql, role: string): Promise<string[]> {
  const rows = await sql<{ right: string }[]>`
    select p.oid::regprocedure::text as right
    from pg_proc as p
    where (p.pronamespace = 'webhookpub'::regnamespace or p.proname like 'webhook\\_publish%')
      and has_function_privilege(${role}, p.oid, 'execute')
    union all
    select c.oid::regclass::text
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
      and (
        has_table_privilege(${role}, c.oid, 'select, insert, update, delete, truncate, references, trigger')
        or has_any_column_privilege(${role}, c.oid, 'select, insert, update, references')
      )
    union all
    select c.oid::regclass::text
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace
      and case when c.relkind = 'S' then
        has_sequence_privilege(${role}, c.oid, 'select, usage, update')
      end
    union all
    select n.nspname
    from pg_namespace as n
    where n.nspname = 'webhookpub' and has_schema_privilege(${role}, n.oid, 'usage, create')
    order by 1`;
  return rows.map((row) => row.right);
}

const unmeant = async (sql: Sql) => [...(await sql`select * from webhookpub.check_privileges()`)];

void t.test("a partition that upkeep made shows others' rows to nobody", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  const { id } = await createWebhook(sql);
  await createWebhook(sql, { userId: "user_2" });
  const role = await stranger(t, database);
  // What a global default privilege does to each table that is made from now on.
  await sql.unsafe(`alter default privileges grant select on tables to ${role}`);
  await sql`select webhookpub.drop_partitions('webhookpub.attempts', 'infinity')
    from generate_series(1, 40)`;
  await sql`select webhookpub.drop_partitions('webhookpub.envelopes', 'infinity')
    from generate_series(1, 40)`;
  while ((await maintain(sql)).some(({ task }) => task === "create_partitions"));
  await publish(sql, { count: 2 });
  await publish(sql, { userId: "user_2" });
  await fanOutAll(sql);
  await sql`
    insert into webhookpub.attempts
      (delivery_id, attempt, started_at, duration_ms, outcome, status_code, response_body, webhook_id)
    values ('whd_1', 1, clock_timestamp(), 7, 'responded', 500, 'a secret', ${id})`;

  const partitions = await sql<{ name: string; rows: number }[]>`
    select
      i.inhrelid::regclass::text as name,
      (xpath('/row/n/text()', query_to_xml(
        format('select count(*) as n from %s', i.inhrelid::regclass), false, true, ''
      )))[1]::text::integer as rows
    from pg_inherits as i
    where i.inhparent in ('webhookpub.attempts'::regclass, 'webhookpub.envelopes'::regclass)
      and i.inhrelid::regclass::text !~ '_default$'`;
  t.equal(partitions.filter(({ rows }) => rows > 0).length, 2, "rows in one of each kind");
  t.strictSame(await rightsOf(sql, role), [], "default privileges opened none");
  await sql.unsafe(`grant usage on schema webhookpub to ${role}`);
  await sql.unsafe(`grant select on all tables in schema webhookpub to ${role}`);
  const session = database.as(role);
  for (const { name } of partitions) {
    t.equal((await session.unsafe(`select from ${name}`)).count, 0, name);
  }
  await session.end();
});

void t.test("default privileges that grant all to some role give it nothing", async (t) => {
  const database = await emptyDatabase(t);
  const { sql, url } = database;
  const role = await stranger(t, database);
  for (const on of ["functions", "tables", "sequences"]) {
    await sql.unsafe(`alter default privileges in schema public grant all on ${on} to ${role}`);
    await sql.unsafe(`alter default privileges grant all on ${on} to ${role}`);
  }
  await sql.unsafe(`alter default privileges grant all on schemas to ${role}`);
  const { code, output } = await migrate(url);
  t.equal(code, 0, output);
  t.strictSame(await rightsOf(sql, role), []);
  t.strictSame(await rightsOf(sql, "public"), []);
  t.strictSame(await unmeant(sql), []);
  const session = database.as(role);
  const publishing = session`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
  await t.rejects(publishing, { code: "42501" });
  await session.end();
});

void t.test("what is granted on purpose stays, whatever default privileges say", async (t) => {
  const database = await emptyDatabase(t);
  const { sql, url } = database;
  const role = await stranger(t, database);
  await sql.unsafe(`alter default privileges in schema public grant all on functions to ${role}`);
  t.equal((await migrate(url)).code, 0);
  await sql.unsafe(`grant execute on function webhook_publish_tx to ${role}`);
  t.strictSame(await unmeant(sql), []);
  const again = await migrate(url);
  t.notMatch(again.output, "WARNING");
  t.equal((await rightsOf(sql, role)).length, 1);
  // A function that is made anew is new.
  await sql`drop function public.webhook_publish_best_effort_tx`;
  await sql`
    create function public.webhook_publish_best_effort_tx () returns text
    language sql return 'mine'`;
  t.strictSame(
    (await unmeant(sql)).map(({ who, origin }) => ({ who, origin })),
    [
      { who: "PUBLIC", origin: "PostgreSQL's own defaults" },
      { who: role, origin: "default privileges" },
    ],
  );
  for (const { statement } of await unmeant(sql)) await sql.unsafe(statement as string);
  t.strictSame(await unmeant(sql), [], "the statements end it");
  t.equal((await rightsOf(sql, role)).length, 1, "and nothing else");
});

void t.test("PUBLIC may do nothing where the roles can't be made, either", async (t) => {
  const database = await emptyDatabase(t);
  const { sql, url } = database;
  t.equal((await migrate(url)).code, 0);
  await sql`grant execute on all functions in schema webhookpub to public`;
  await sql`grant usage on schema webhookpub to public`;
  await sql`grant select on webhookpub.events to public`;
  await sql`grant update (publish_enabled) on webhookpub.settings to public`;
  t.ok((await rightsOf(sql, "public")).length > 50);
  t.ok((await unmeant(sql)).length > 50);
  await sql`
    create or replace function webhookpub.create_roles () returns boolean
    language sql volatile return false`;
  const { code, output } = await migrate(url);
  t.equal(code, 0, output);
  t.match(output, /^WARNING: {2}PUBLIC could use \d+ of .*revoked\nHINT: /m);
  t.match(output, /^WARNING: .*roles are not installed/m);
  t.strictSame(await rightsOf(sql, "public"), []);
  t.strictSame(await unmeant(sql), []);
});

// Real dumps --------------------------------------------------------------------------

/** A dump of a database that has worked, in pg_dump's own format; and what is in it. */
async function dumped(t: Test): Promise<{ file: string; webhook: string; shop: string }> {
  const database = await testDatabase(t);
  const { sql, url } = database;
  const { id } = await createWebhook(sql);
  await publish(sql, { count: 3 });
  await fanOutAll(sql);
  const shop = await stranger(t, database);
  await sql.unsafe(`grant execute on function webhook_publish_tx to ${shop}`);
  const directory = await mkdtemp(join(tmpdir(), "dump-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const file = join(directory, "dump");
  await pgProgram("pg_dump", ["-Fc", "-f", file, url]);
  return { file, webhook: id, shop };
}

/** Nobody has more than what was granted on purpose, and the roles what is theirs. */
async function isInOrder(t: Test, sql: Sql, strangers: readonly string[]): Promise<void> {
  t.strictSame(await rightsOf(sql, "public"), []);
  for (const role of strangers) t.strictSame(await rightsOf(sql, role), [], role);
  t.strictSame(await unmeant(sql), []);
  const [may] = await sql`
    select
      has_function_privilege('webhookpub_readonly', 'webhookpub.rotate_secret(text, interval)',
        'execute') as readonly,
      has_function_privilege('webhookpub_operator', 'webhookpub.rotate_secret(text, interval)',
        'execute') as operator,
      (select count(*)::integer from pg_policy where polname like '%of_all_users') as policies`;
  t.match(may, { readonly: false, operator: true });
  t.ok((may?.["policies"] as number) >= 7, "operators see rows again");
}

void t.test("a restore without privileges, then migrate", { skip: NO_DUMP }, async (t) => {
  const { file, webhook, shop } = await dumped(t);
  const database = await emptyDatabase(t);
  const { sql, url } = database;
  const anon = await stranger(t, database);
  const guest = await stranger(t, database);
  await sql.unsafe(`alter default privileges in schema public grant all on functions to ${anon}`);
  await pgProgram("pg_restore", ["--no-owner", "--no-acl", "-d", url, file]);

  const login = await createLogin(t, database, "webhookpub_readonly");
  const session = database.as(guest);
  const publishes = () => session`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
  await publishes();
  t.ok((await unmeant(sql)).length > 50, "everybody may call everything");
  const { code, output } = await migrate(url);
  t.equal(code, 0, output);
  t.match(output, /WARNING: {2}PUBLIC could use/);
  t.match(output, new RegExp(`WARNING: {2}${anon} could use 3 of `));
  await isInOrder(t, sql, [anon, guest, shop]);
  await t.rejects(publishes(), { code: "42501" });
  await t.rejects(login.sql`select webhookpub.rotate_secret(${webhook})`, { code: "42501" });
  t.equal((await login.sql`select from webhookpub.events`).count, 4, "the rows are there");
  t.notMatch((await migrate(url)).output, "WARNING", "said once");
  await session.end();
});

void t.test(
  "a restore with privileges keeps those that its dump had",
  { skip: NO_DUMP },
  async (t) => {
    const { file, shop } = await dumped(t);
    const database = await emptyDatabase(t);
    const { sql, url } = database;
    const anon = await stranger(t, database);
    const gone = await stranger(t, database);
    const inPublic = "alter default privileges in schema public";
    await sql.unsafe(`${inPublic} grant all on functions to ${anon}, ${gone}`);
    await pgProgram("pg_restore", ["-d", url, file]);
    await sql.unsafe(`${inPublic} revoke all on functions from ${gone}`);
    const { code, output } = await migrate(url);
    t.equal(code, 0, output);
    t.match(output, new RegExp(`WARNING: {2}${anon} could use .* revoked`));
    // Nobody can tell these from each other any more: both are named, with what ends it.
    for (const [role, objects] of [
      [gone, 3],
      [shop, 1],
    ] as const) {
      t.match(
        output,
        new RegExp(
          `WARNING: {2}${role} may use ${objects} of .* restore .*\nHINT: .*: revoke all on routine public.webhook_publish.* from ${role}`,
        ),
      );
    }
    await isInOrder(t, sql, [anon]);
    t.strictSame((await rightsOf(sql, shop)).length, 1);
  },
);

void t.test(
  "a restore into a server without the roles, then migrate",
  { skip: NO_DUMP },
  async (t) => {
    const { file, shop } = await dumped(t);
    const cluster = await startTemporaryPostgres({
      binaries: process.env["PG_BIN"],
      settings: ["fsync=off"],
    });
    const admin = connect(cluster.url, { max: 1 });
    const url = databaseOf(cluster.url, "copy");
    const sql = connect(url, { max: 1 });
    t.teardown(async () => {
      await Promise.all([admin.end({ timeout: 1 }), sql.end({ timeout: 1 })]);
      await cluster.remove();
    });
    await admin`create database copy`;
    await admin`create role guest login`;
    await admin.unsafe(`create role ${shop} login`);
    const said = await pgProgram("pg_restore", ["-d", url, file], { tolerant: true });
    t.match(said, /role "webhookpub_operator" does not exist/);
    t.ok((await rightsOf(sql, "guest")).length > 10, "the revokes went with the grants");
    const { code, output } = await migrate(url);
    t.equal(code, 0, output);
    await isInOrder(t, sql, ["guest"]);
  },
);
