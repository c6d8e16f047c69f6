// What keeps migrate from its work is named before anything is written, with what to do about it.
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { committedObjects } from "../../src/committed.ts";
import { root } from "../../src/config.ts";
import type { Sql } from "../../src/database/connect.ts";
import { emptyDatabase, type TestDatabase, testDatabase } from "../support/database.ts";
import { createLogin } from "../support/login.ts";
import { runProgram } from "../support/program.ts";
import { npm, projectIn } from "../support/project.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const migrate = (url: string, ...flags: string[]) =>
  runProgram(["src/cli/webhookpub.ts migrate", ...flags].join(" "), { DATABASE_URL: url });

/** All schemas, functions and relations: whatever migrate could have left behind. */
async function everything(sql: Sql): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select 'schema ' || n.nspname as name from pg_namespace as n where n.nspname !~ '^pg_'
    union all
    select p.oid::regprocedure::text from pg_proc as p
    where p.pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
    union all
    select c.oid::regclass::text from pg_class as c
    where c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
    union all
    select e.extname from pg_extension as e
    order by 1`;
  return rows.map((row) => row.name);
}

/** Refused with these faults in it, without a stack trace, and nothing was written. */
async function refused(t: Test, sql: Sql, url: string, code: string, ...says: RegExp[]) {
  const before = await everything(sql);
  const ended = await migrate(url);
  t.equal(ended.code, 1);
  t.match(ended.output, new RegExp(`^ERROR: {2}${code}: .*\nHINT: {2}\\S`));
  for (const said of says) t.match(ended.output, said);
  t.notMatch(ended.output, /^ {2,}at /m, "no stack trace");
  t.strictSame(await everything(sql), before, "nothing is left behind");
}

/** An empty database, and somebody who may only connect to it. */
async function guest(
  t: Test,
): Promise<{ database: TestDatabase; me: string; url: string; name: string }> {
  const database = await emptyDatabase(t);
  const { role, url } = await createLogin(t, database);
  return { database, me: role, url, name: new URL(url).pathname.slice(1) };
}

void t.test(
  "rights that are missing are named all at once, and what gives them works",
  async (t) => {
    const { database, me, url, name } = await guest(t);
    const { sql } = database;
    await refused(
      t,
      sql,
      url,
      "WH031",
      new RegExp(
        `${me} may not create schemas in it; ${me} may not create functions in its schema public`,
      ),
      new RegExp(`^grant create on database ${name} to ${me};$`, "m"),
      new RegExp(`^grant create on schema public to ${me};$`, "m"),
    );
    await sql.unsafe(`grant create on database ${name} to ${me}`);
    await refused(
      t,
      sql,
      url,
      "WH031",
      /can't be migrated: \S+ may not create functions in its schema public\n/,
    );
    await sql.unsafe(`grant create on schema public to ${me}`);
    const ended = await migrate(url);
    t.equal(ended.code, 0, ended.output);
    await sql.unsafe(`revoke create on schema public from ${me}`);
  },
);

void t.test("a pgcrypto, a graphile_worker of somebody else's are named", async (t) => {
  const { database, me, url, name } = await guest(t);
  const { sql } = database;
  await sql.unsafe(
    `grant create on database ${name} to ${me}; grant create on schema public to ${me}`,
  );
  await sql`create schema extensions`;
  await sql`create extension pgcrypto schema extensions`;
  await sql`create schema graphile_worker`;
  await refused(
    t,
    sql,
    url,
    "WH031",
    /schema graphile_worker belongs to postgres/,
    new RegExp(
      `may not use schema extensions, where pgcrypto is[^]*^grant usage on schema extensions to ${me};$`,
      "m",
    ),
  );
  await sql.unsafe(`grant usage on schema extensions to ${me}`);
  await sql`drop schema graphile_worker`;
  const ended = await migrate(url);
  t.equal(ended.code, 0, ended.output);
  await sql.unsafe(`revoke create on schema public from ${me}`);
});

void t.test("a database without the schema public, or that can't be written to", async (t) => {
  const { sql, url } = await emptyDatabase(t);
  await sql`drop schema public`;
  await refused(t, sql, url, "WH031", /no schema public/, /create schema public; grant usage/);
  await sql`create schema public`;
  const name = new URL(url).pathname.slice(1);
  await sql.unsafe(`alter database ${name} set default_transaction_read_only = on`);
  await refused(t, sql, url, "WH031", /can't be written to/);
});

void t.test("only UTF-8 will do", async (t) => {
  const { sql } = await emptyDatabase(t);
  for (const encoding of ["LATIN1", "WIN1252", "SQL_ASCII"]) {
    const name = `test_${randomBytes(6).toString("hex")}`;
    await sql.unsafe(
      `create database ${name} encoding '${encoding}' template template0 lc_collate 'C' lc_ctype 'C'`,
    );
    t.teardown(() => sql.unsafe(`drop database ${name} with (force)`));
    const url = (await emptyDatabase(t)).url.replace(/[^/]+$/, name);
    const ended = await migrate(url);
    t.equal(ended.code, 1);
    t.match(
      ended.output,
      new RegExp(`^ERROR: {2}WH031: .*encoding is ${encoding}, and has to be UTF8`),
    );
    t.match(ended.output, /HINT: .*[^]*create database \S+_utf8 encoding 'UTF8'/);
  }
});

void t.test("a state of development leads nowhere, and says so", async (t) => {
  const old = await emptyDatabase(t);
  await old.sql`create schema graphile_migrate`;
  await old.sql`create table graphile_migrate.migrations (hash text, previous_hash text, filename text, date timestamptz)`;
  await old.sql`
    insert into graphile_migrate.migrations (hash, filename)
    values ('sha1:e7b1b8f400dffe9437de142893f075b88893a125', '000001.sql')`;
  await refused(
    t,
    old.sql,
    old.url,
    "WH030",
    /state of development, from before the first release/,
    /uninstall/,
  );

  const other = await emptyDatabase(t);
  t.equal((await migrate(other.url)).code, 0);
  await other.sql`update graphile_migrate.migrations set hash = 'sha1:x' where filename = '000002.sql'`;
  await other.sql`update webhookpub.migrations set hash = 'x'`;
  await refused(t, other.sql, other.url, "WH030", /state of development/);
});

void t.test("the older side is named, at a worker's start and by migrate", async (t) => {
  const { url, sql } = await testDatabase(t);
  const start = async (says: RegExp) => {
    const worker = await startWorkerProcess(t, url);
    t.equal(await worker.ended(), 1);
    t.match(worker.output(), says);
  };
  const [{ last }] = await sql<[{ last: string }]>`select webhookpub.last_migration() as last`;
  const committed = await readFile(join(root, "migrations/committed/000002-behaviour.sql"), "utf8");
  t.match(committed, last.split(" ")[1] ?? "none", "it is the last of the committed");

  await sql`insert into webhookpub.migrations (name, hash) values ('000099', 'x')`;
  await start(/WH030: this webhookpub is older than the database: .*000002.*000099/);
  const ended = await migrate(url);
  t.equal(ended.code, 1);
  t.match(ended.output, /WH030: this webhookpub is older than the database/);
  await sql`truncate webhookpub.migrations`;
  await sql`insert into webhookpub.migrations (name, hash) values ('000001', 'x')`;
  await start(
    /WH030: the database is older than this webhookpub: .*000001.*000002\nHINT: {2}Run: npm run migrate/,
  );
  await sql`update webhookpub.migrations set name = '000002'`;
  await start(/WH030: the database's migration 000002 is another/);
});

void t.test("what is gone is put back", async (t) => {
  const database = await testDatabase(t);
  const { url, sql } = database;
  const webhook = await createWebhook(sql);
  await publish(sql);
  const names = async () =>
    [
      ...(await sql<{ name: string }[]>`
      select p.oid::regprocedure::text || ' ' || coalesce(p.proacl::text, '') as name from pg_proc as p
      where p.pronamespace::regnamespace::text in ('public', 'webhookpub') order by 1`),
    ].map((row) => row.name);
  const before = await names();
  await sql`drop schema public cascade`;
  t.match((await migrate(url)).output, /WH031: .*no schema public/);
  await sql`create schema public`;
  await sql`grant usage on schema public to public`;
  await sql`drop view webhookpub.backlog cascade`;
  await sql`drop function webhookpub.rotate_secret`;
  const { code, output } = await migrate(url);
  t.equal(code, 0, output);
  t.match(output, /^put back what was gone: .*webhook_publish_tx/m);
  t.match(output, /webhookpub\.backlog/);
  t.strictSame(await names(), before, "everything, with the privileges that it had");
  await publish(sql);
  await fanOutAll(sql);
  await sql`select webhookpub.rotate_secret(${webhook.id})`;
  t.equal((await sql`select from webhookpub.deliveries`).count, 2);
  t.notMatch((await migrate(url)).output, /put back/);
  t.ok(committedObjects().size > 60);

  await sql`drop table webhookpub.publish_failures cascade`;
  const lost = await migrate(url);
  t.equal(lost.code, 1);
  t.match(lost.output, /WH030: webhookpub.publish_failures is gone/);
  await sql`drop schema webhookpub cascade`;
  const anew = await migrate(url);
  t.equal(anew.code, 0, anew.output);
  await createWebhook(sql);
});

// graphile-worker of somebody else's ---------------------------------------------------

void t.test("an application's older graphile-worker is not upgraded under it", async (t) => {
  const { url, sql } = await emptyDatabase(t);
  // The real one, with a task, at work.
  const folder = await mkdtemp(join(tmpdir(), "host-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const host = projectIn(t, folder);
  await host.write("package.json", '{"private": true, "type": "module"}');
  await npm(folder, "install", "--prefer-offline", "graphile-worker@0.16.6");
  await host.write(
    "tasks/note.js",
    "export default (p, { query }) => query('insert into notes values ($1)', [p.n]);",
  );
  await sql`create table notes (n text)`;
  const worker = await host.start([process.execPath, "node_modules/graphile-worker/dist/cli.js"], {
    DATABASE_URL: url,
  });
  const note = async (n: string) => {
    await sql`select graphile_worker.add_job('note', json_build_object('n', ${n}::text))`;
    await until(async () => (await sql`select from notes where n = ${n}`).count === 1, `note ${n}`);
  };
  await worker.printed("looking for jobs");
  await note("1");
  await refused(
    t,
    sql,
    url,
    "WH034",
    /revision 18 \(0\.16\), webhookpub brings 20 \(0\.18\.0\)/,
    /npm run migrate -- --upgrade-graphile-worker/,
  );
  const ours = await startWorkerProcess(t, url);
  t.not(await ours.ended(), 0, "nor does a worker upgrade it");
  await note("2");

  await worker.stop();
  const upgraded = await migrate(url, "--upgrade-graphile-worker");
  t.equal(upgraded.code, 0, upgraded.output);
  t.equal((await migrate(url)).code, 0);
});
