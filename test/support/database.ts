import { randomBytes } from "node:crypto";
import type { Test } from "tap";
import type { Cluster } from "../../src/database/embedded_postgres.ts";
import { connect, type Sql } from "../../src/database/connect.ts";
import { databaseOf, startTestCluster, TEMPLATE } from "./cluster.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/** A database of a test's own. */
export interface TestDatabase {
  readonly url: string;
  /** A pool of ten connections as its owner, a superuser. */
  readonly sql: Sql;
  /** A connection of its own, for tests with several sessions. */
  readonly session: () => Sql;
  /** The same, as another role. */
  readonly as: (role: string) => Sql;
}

/**
 * Clones the template database; it goes with the test. Receivers on this machine are
 * allowed in it.
 */
export async function testDatabase(t: Test): Promise<TestDatabase> {
  const database = await cloneDatabase(t, TEMPLATE);
  await renewDays(database.sql);
  await allowReceivers(database.sql);
  return database;
}

/** The same in a cluster of its own, for a test that stops it. */
export async function stoppableDatabase(
  t: Scope,
): Promise<TestDatabase & { readonly cluster: Cluster }> {
  await midnightIsFar();
  const cluster = await startTestCluster();
  t.teardown(() => cluster.remove());
  const database = openDatabase(t, databaseOf(cluster.url, TEMPLATE));
  await allowReceivers(database.sql);
  return { ...database, cluster };
}

/**
 * Makes a database with nothing in it; it goes with the test.
 *
 * @param options of CREATE DATABASE, as SQL
 */
export function emptyDatabase(t: Test, options = ""): Promise<TestDatabase> {
  return cloneDatabase(t, `template0 ${options}`);
}

/** Why tests that need ICU's collations are skipped; false when the server has them. */
export async function skipWithoutIcu(t: Test): Promise<string | false> {
  const admin = connect(await clusterOf(t), { max: 1 });
  const found = await admin`select from pg_collation where collprovider = 'i' limit 1`;
  await admin.end();
  return found.count === 0 && "this PostgreSQL was built without ICU";
}

async function allowReceivers(sql: Sql): Promise<void> {
  await sql`
    update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
}

/** A test sees one day, and not two: partitions are of days (UTC). */
async function midnightIsFar(): Promise<void> {
  const day = 86_400_000;
  await until(() => Date.now() % day < day - 60_000, "midnight to be over");
}

/** As if it had been migrated today: in a run that began before midnight the template was not. */
async function renewDays(sql: Sql): Promise<void> {
  await sql`
    select
      webhookpub.create_partitions(r.name),
      webhookpub.drop_partitions(r.name, date_trunc('day', now(), 'UTC') - interval '1 day')
    from (values ('webhookpub.envelopes'::regclass), ('webhookpub.attempts')) as r (name)
    where not exists (
      select from webhookpub.partitions_of(r.name) as p
      where p.last_day = (now() at time zone 'UTC')::date + 14
    )`;
}

async function cloneDatabase(t: Test, template: string): Promise<TestDatabase> {
  const clusterUrl = await clusterOf(t);
  const name = `test_${randomBytes(6).toString("hex")}`;
  await midnightIsFar();
  const admin = connect(clusterUrl, { max: 1 });
  await admin.unsafe(`create database ${name} template ${template}`);
  // Teardowns run last in, first out: the sessions end before.
  t.teardown(async () => {
    await admin.unsafe(`drop database ${name} with (force)`);
    await admin.end();
  });
  return openDatabase(t, databaseOf(clusterUrl, name));
}

function openDatabase(t: Scope, url: string): TestDatabase {
  const sessions: Sql[] = [];
  const open = (max: number, role?: string): Sql => {
    const own = new URL(url);
    if (role !== undefined) own.username = role;
    const session = connect(own.href, { max });
    sessions.push(session);
    return session;
  };
  const sql = open(10);
  t.teardown(() => Promise.all(sessions.map((session) => session.end({ timeout: 1 }))));
  return { url, sql, session: () => open(1), as: (role) => open(1, role) };
}

/** The run's cluster; a file that runs by itself starts its own. */
async function clusterOf(t: Test): Promise<string> {
  const given = process.env["WEBHOOKPUB_TEST_CLUSTER"];
  if (given) return given;
  const cluster = await startTestCluster();
  process.env["WEBHOOKPUB_TEST_CLUSTER"] = cluster.url;
  // After the databases of this file: teardowns run last in, first out, and children first.
  let top: Test = t;
  while (top.parent) top = top.parent as Test;
  top.teardown(() => cluster.remove());
  return cluster.url;
}
