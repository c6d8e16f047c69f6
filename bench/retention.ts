import { setTimeout as sleep } from "node:timers/promises";
import { maintain } from "../src/database/calls.ts";
import type { Sql } from "../src/database/connect.ts";
import { maintainUntilDone } from "../src/maintain.ts";
import { type Bench, quantile, resultOf, resultWithin, unsteady } from "./support/bench.ts";
import { DATA, PUBLISH, timeOf } from "./support/load.ts";
import { pgbench } from "./support/pgbench.ts";
import { startSystem } from "./support/system.ts";

/** What a round with nothing to do may take, in milliseconds. */
const ROUND_MS = 10;
const silent = { debug() {}, info() {}, warn() {}, error() {} };

/**
 * How long publishing takes, at the 95th percentile and a steady rate, while all of an expired
 * day is removed, its events and deliveries as well as its partitions of envelopes and
 * attempts, against that before and after; and what a round costs that has nothing to do.
 */
export const retention: Bench = async ({ rounds, small, say }) => {
  const rows = small ? 20_000 : 1_000_000;
  const load = { script: PUBLISH, clients: 4, seconds: small ? 1 : 5, rate: 200 };
  const system = await startSystem();
  const { sql } = system;
  const publish = async () => (await pgbench(system.url, load)).latencies;
  const upkeep = () => maintainUntilDone(() => maintain(sql), silent, new AbortController().signal);
  try {
    await upkeep();
    await publish();
    const measured: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      await expire(sql, rows);
      const without = [...(await publish()), ...(await publish())];
      const meanwhile: number[] = [];
      const begun = performance.now();
      let seconds = 0;
      const removing = (async () => {
        while ((await left(sql)) > 0) await upkeep();
        seconds = (performance.now() - begun) / 1000;
      })();
      while (seconds === 0) meanwhile.push(...(await publish()));
      await removing;
      without.push(...(await publish()), ...(await publish()));
      const [p95, baseline] = [quantile(meanwhile, 0.95), quantile(without, 0.95)];
      measured.push([p95, baseline]);
      say(
        `  p95 ${p95.toFixed(1)} ms, without ${baseline.toFixed(1)} ms; ` +
          `a day of ${rows} events removed in ${seconds.toFixed(0)} s`,
      );
    }
    const idle: number[] = [];
    for (let i = 0; i < 20; i += 1) {
      idle.push(await timeOf(() => sql`select webhookpub.maintain()`));
      await sleep(10);
    }
    return [
      unsteady(resultOf("publish p95 while a day is removed", "ms", measured, { atMost: 1.2 })),
      resultWithin("a round with nothing to do", idle, ROUND_MS),
    ];
  } finally {
    await system.remove();
  }
};

/**
 * A day of events whose time has come, as delivering leaves them: each with its envelope, one
 * delivery and one attempt.
 */
async function expire(sql: Sql, rows: number): Promise<void> {
  await sql`update webhookpub.settings set delivery_retention = '30 days'`;
  const day = sql`date_trunc('day', now() - interval '32 days', 'UTC')`;
  for (const table of ["envelopes", "attempts"]) {
    await sql`
      select webhookpub.create_partitions(
        ${`webhookpub.${table}`}::regclass, 0, ${day} + interval '1 day'
      )`;
  }
  await sql`
    insert into webhookpub.events
      (id, user_id, type, status, matched_webhook_ids, attempts, processed_at, created_at,
       expires_at)
    select
      'evt_' || md5(random()::text || n), 'user_1', 'email.received', 'processed', '{wh_1}', 1,
      m.at, m.at, m.at + interval '30 days'
    from generate_series(1, ${rows}::int) as n
    cross join lateral (select ${day} + n * interval '1 day' / ${rows + 1}::int as at) as m`;
  await sql`
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select e.id, e.created_at, e.user_id, ${DATA}
    from webhookpub.events as e
    where e.status = 'processed'`;
  await sql`
    insert into webhookpub.delivery_history
      (id, webhook_id, event_id, event_type, event_created_at, status, attempts,
       max_attempts, delivered_at, created_at)
    select
      webhookpub.delivery_id(e.created_at), 'wh_1', e.id, e.type, e.created_at, 'delivered',
      1, 8, e.created_at, e.created_at
    from webhookpub.events as e
    where e.status = 'processed'`;
  await sql`
    insert into webhookpub.attempts
      (delivery_id, attempt, started_at, duration_ms, outcome, status_code, response_body,
       webhook_id)
    select d.id, 1, d.delivered_at, 5, 'responded', 200, 'ok', d.webhook_id
    from webhookpub.deliveries as d
    where d.status = 'delivered'`;
  await sql`checkpoint`;
}

/** How many rows and partitions of that day are left. */
async function left(sql: Sql): Promise<number> {
  const [row] = await sql<[{ count: number }]>`
    select (
      (select count(*) from webhookpub.events where expires_at < now())
      + (select count(*) from webhookpub.deliveries where expires_at < now())
      + (
        select count(*)
        from pg_class
        where relname ~ '^(envelopes|attempts)_[0-9]{8}$'
          and relkind = 'r'
          and right(relname, 8) < to_char(now() - interval '31 days', 'YYYYMMDD')
      )
    )::int as count`;
  return row.count;
}
