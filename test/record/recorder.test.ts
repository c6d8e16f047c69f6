// A worker's recorder with a real database that refuses, waits and deadlocks.
import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { makePool } from "../../src/database/pool.ts";
import { answerTo, type Outcome } from "../../src/deliver/answer.ts";
import { makeRecorder } from "../../src/deliver/recorder.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";
import { leaseDeliveries } from "../support/leases.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";

const OK: Outcome = { kind: "responded", statusCode: 200, body: "fine", retryAfter: null };

/** A recorder of a worker's, what it says, and answers that it may be given. */
async function scene(t: Test, { count = 1 }: { count?: number } = {}) {
  const database = await testDatabase(t);
  const { sql, url } = database;
  const { id } = await createWebhook(sql, { maxInFlight: 1000 });
  await publish(sql, { count });
  await sql`select webhookpub.fan_out()`;
  const leases = await leaseDeliveries(sql, [id]);
  t.equal(leases.length, count);
  const pool = makePool(url, { max: 2, statementMs: 60_000 });
  t.teardown(() => pool.close());
  const errors: string[] = [];
  const nothing = () => undefined;
  const log = {
    debug: nothing,
    info: nothing,
    warn: nothing,
    error: (m: string) => errors.push(m),
  };
  const recorder = makeRecorder(pool, log, nothing);
  return {
    database,
    errors,
    record: (outcomes: readonly Outcome[]) =>
      Promise.all(
        outcomes.map((outcome, i) => recorder.record(answerTo(leases[i]!, outcome, 1), true)),
      ),
  };
}

async function attemptsIn(sql: Sql) {
  return [
    ...(await sql`
      select outcome, status_code, error, response_body from webhookpub.attempts
      order by outcome, status_code, response_body`),
  ];
}

async function ended({ sql }: TestDatabase): Promise<Record<string, number>> {
  const rows = await sql<{ status: string; count: number }[]>`
    select status, count(*)::integer as count from webhookpub.deliveries group by status`;
  return Object.fromEntries(rows.map(({ status, count }) => [status, count]));
}

void t.test("an attempt is kept without what the database can't store", async (t) => {
  const { database, errors, record } = await scene(t, { count: 4 });
  await record([
    OK,
    { ...OK, body: "a byte that no text has: \0" },
    { kind: "refused", error: "it said \0" },
    { ...OK, statusCode: 503, body: "wait", retryAfter: "\0" },
  ]);
  t.strictSame(await attemptsIn(database.sql), [
    {
      outcome: "refused",
      status_code: null,
      error: "the database could not store what it said",
      response_body: null,
    },
    { outcome: "responded", status_code: 200, error: null, response_body: "fine" },
    { outcome: "responded", status_code: 200, error: null, response_body: null },
    { outcome: "responded", status_code: 503, error: "HTTP 503", response_body: null },
  ]);
  t.strictSame(await ended(database), { delivered: 2, pending: 2 });
  t.ok(
    errors.every((error) => error.startsWith("recording 1 attempts failed, trying again: ")),
    "the others do not wait for the culprit",
    { errors },
  );
});

void t.test("an answer that finds no partition (23514) is told again", async (t) => {
  const { database, errors, record } = await scene(t);
  const { sql } = database;
  // What a round of upkeep that catches up does for an instant.
  const partitions = await sql<{ name: string }[]>`
    select partition_name as name from webhookpub.partitions where table_name = 'attempts'`;
  for (const { name } of partitions) {
    await sql`alter table webhookpub.attempts detach partition webhookpub.${sql(name)}`;
  }
  const recording = record([OK]);
  await until(() => errors.length > 0, "the first refusal");
  t.match(errors[0], /trying again: .*no partition/);
  await sql`alter table webhookpub.attempts attach partition webhookpub.attempts_default default`;
  await recording;
  t.match(await attemptsIn(sql), [{ response_body: "fine" }], "with all that it said");
  t.strictSame(await ended(database), { delivered: 1 });
});

void t.test("a deadlock (40P01) is tried again", async (t) => {
  const { database, errors, record } = await scene(t);
  const { sql } = database;
  const recordings: Promise<unknown>[] = [];
  await database.session().begin(async (tx) => {
    // The other one is found to be the one too many.
    await tx`set local deadlock_timeout = '10min'`;
    await tx`lock table webhookpub.attempts in access exclusive mode`;
    recordings.push(record([OK]));
    await until(
      async () =>
        (
          await sql`
            select from pg_locks as l
            join pg_database as d on d.oid = l.database and d.datname = current_database()
            where l.relation = 'webhookpub.attempts'::regclass and not l.granted`
        ).count > 0,
      "the record to wait",
    );
    await tx`select from webhookpub.queue for update`;
    await until(() => errors.length > 0, "the deadlock");
    t.match(errors[0], /trying again: .*deadlock detected/);
  });
  await Promise.all(recordings);
  t.strictSame(await ended(database), { delivered: 1 });
  t.match(await attemptsIn(sql), [{ response_body: "fine" }]);
});

void t.test("a batch that takes too long (57014) is halved until it does not", async (t) => {
  const { database, errors, record } = await scene(t, { count: 100 });
  const { sql } = database;
  // A server that works on no more than ten answers before its statement_timeout.
  await sql.unsafe(`
    create table batches (answers integer);
    create function too_long () returns trigger language plpgsql as $$
    declare
      v_answers constant integer := (select count(*) from recorded);
    begin
      if v_answers > 10 then
        raise query_canceled using message = 'canceling statement due to statement timeout';
      end if;
      insert into public.batches values (v_answers);
      return null;
    end;
    $$;
    create trigger too_long after insert on webhookpub.attempts
    referencing new table as recorded
    for each statement execute function too_long()`);
  await record(Array.from({ length: 100 }, () => OK));
  const [row] = await sql<[{ most: number; sum: number }]>`
    select max(answers) as most, sum(answers)::integer as sum from batches`;
  t.equal(row.sum, 100, "each once");
  t.ok(row.most <= 10 && row.most > 1, `up to ${row.most} at once`);
  t.strictSame(errors, [], "which is nothing to tell of");
  t.strictSame(await ended(database), { delivered: 100 });
});
