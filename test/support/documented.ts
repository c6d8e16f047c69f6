// The SQL of the documentation, and the database in which it runs.
import type postgres from "postgres";
import type { Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { type TestDatabase, testDatabase } from "./database.ts";

/** What the pages under docs/ find in their database, beside a new installation. */
export const PRELUDE = `
  select * from webhookpub.create_webhook('user_1', 'https://hooks.example.com/first', '{*}');

  -- A delivery whose first attempt failed.
  select webhook_publish_tx('email.received', 'user_1', '{}', event_id => 'evt_first');
  select * from webhookpub.fan_out();
  select webhookpub.record_attempts(
    array[l.delivery_id], array[l.attempt], array[l.started_at], array[7],
    array['responded'], array[500], array[null], array['oops'], array[null]
  )
  from webhookpub.lease_deliveries(array(select w.id from webhookpub.webhooks as w)) as l;

  -- A webhook whose receiver does not answer.
  select * from webhookpub.create_webhook('user_2', 'https://hooks.example.com/silent', '{*}');
  select webhook_publish_tx('email.received', 'user_2', '{}') from generate_series(1, 5);
  select * from webhookpub.fan_out();
  select webhookpub.record_attempts(
    array[l.delivery_id], array[l.attempt], array[l.started_at], array[15000],
    array['timed_out'], array[null]::integer[], array['no answer within 15000 ms'], array[null],
    array[null]
  )
  from webhookpub.lease_deliveries(
    array(select w.id from webhookpub.webhooks as w where w.user_id = 'user_2')
  ) as l;

  -- An event whose fan-out failed.
  select webhook_publish_tx('email.received', 'user_1', '{}', event_id => 'evt_stuck');
  update webhookpub.events
  set attempts = 1, last_error = 'out of memory', retry_at = now() + interval '1 hour'
  where id = 'evt_stuck';

  -- An event that was published too early for the catalog.
  select webhook_publish_best_effort_tx('order.shipped', 'user_1', '{}');
  insert into webhookpub.event_types (name) values ('order.shipped')`;

/** A database as a new installation has it: testDatabase opens this machine to webhooks. */
export async function freshDatabase(t: Test): Promise<TestDatabase> {
  const database = await testDatabase(t);
  await database.sql`update webhookpub.settings set allow_http = false, allowed_networks = '{}'`;
  return database;
}

/** Runs a block of SQL as psql would, in a session; resolves to the rows of each statement. */
export async function runBlock(
  t: Test,
  session: Sql | postgres.TransactionSql,
  block: string,
): Promise<postgres.Row[][]> {
  const answer = await session.unsafe(block);
  const results = ("command" in answer ? [answer] : answer) as unknown as postgres.RowList<
    postgres.Row[]
  >[];
  for (const result of results) {
    if (["SELECT", "INSERT", "UPDATE", "DELETE"].includes(result.command)) {
      t.ok(result.count > 0, `${result.command} finds something`, { block });
    }
  }
  return results;
}
