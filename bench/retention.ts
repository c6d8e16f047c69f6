import { setTimeout as sleep } from "node:timers/promises";
import { maintain, type Sql } from "../src/client.ts";
import { maintainUntilDone } from "../src/maintain.ts";
import { type Bench, resultOf, resultWithin } from "./support/bench.ts";
import { PUBLISH, timeOf } from "./support/load.ts";
import { pgbench } from "./support/pgbench.ts";
import { startSystem } from "./support/system.ts";

/** What a round with nothing to do may take, in milliseconds. */
const ROUND_MS = 10;
const silent = { info() {}, warn() {}, error() {} };

/**
 * How long publishing takes, at the 95th percentile and a steady rate, while a day of
 * expired events and deliveries is removed, against that without; and what a round costs
 * that has nothing to do.
 */
export const retention: Bench = async ({ rounds, small, say }) => {
  // More than a round removes: to make more meanwhile would be in its figure.
  const rows = small ? 100_000 : 1_000_000;
  const load = { script: PUBLISH, clients: 4, seconds: small ? 2 : 15, rate: 200 };
  const system = await startSystem();
  const { sql } = system;
  try {
    await sql`select webhookpub.maintain() from generate_series(1, 3)`;
    await expire(sql, rows);
    await pgbench(system.url, { ...load, seconds: 1 });
    const measured: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      const { p95: baseline } = await pgbench(system.url, load);
      const stopping = new AbortController();
      const before = await expired(sql);
      const removing = (async () => {
        // Whatever the load: there is always something to remove.
        while (!stopping.signal.aborted) {
          await maintainUntilDone(() => maintain(sql), silent, stopping.signal);
          if ((await expired(sql)) === 0) await expire(sql, rows);
        }
      })();
      const { p95 } = await pgbench(system.url, load);
      stopping.abort();
      await removing;
      const removed = before - (await expired(sql));
      measured.push([p95, baseline]);
      say(
        `  p95 ${p95.toFixed(1)} ms, without ${baseline.toFixed(1)} ms; ` +
          `${(removed / load.seconds).toFixed(0)} events/s removed`,
      );
    }
    while ((await expired(sql)) > 0) {
      await maintainUntilDone(() => maintain(sql), silent, new AbortController().signal);
    }
    const idle: number[] = [];
    for (let i = 0; i < 20; i += 1) {
      idle.push(await timeOf(() => sql`select webhookpub.maintain()`));
      await sleep(10);
    }
    return [
      resultOf("publish p95 while a day is removed", "ms", measured, { atMost: 1.2 }),
      resultWithin("a round with nothing to do", idle, ROUND_MS),
    ];
  } finally {
    await system.remove();
  }
};

/** Events that have been fanned out and whose time has come, with a delivery each. */
async function expire(sql: Sql, rows: number): Promise<void> {
  await sql`
    insert into webhookpub.events
      (id, user_id, type, status, matched_webhook_ids, attempts, processed_at, created_at,
       expires_at)
    select
      'evt_' || md5(random()::text || n), 'user_1', 'email.received', 'processed', '{}', 1, m.at,
      m.at, m.at + interval '30 days'
    from generate_series(1, ${rows}::int) as n
    cross join lateral (
      select now() - interval '31 days' + n * interval '10 milliseconds' as at
    ) as m`;
  await sql`
    insert into webhookpub.deliveries
      (id, webhook_id, event_id, event_type, event_created_at, status, attempts,
       max_attempts, delivered_at, created_at, expires_at)
    select
      webhookpub.delivery_id(e.created_at), 'wh_1', e.id, e.type, e.created_at, 'delivered',
      1, 8, e.created_at, e.created_at, e.expires_at
    from webhookpub.events as e
    where e.status = 'processed'`;
  await sql`checkpoint`;
}

async function expired(sql: Sql): Promise<number> {
  const [row] = await sql<[{ count: number }]>`
    select count(*)::int as count
    from webhookpub.events
    where status = 'processed' and expires_at < now()`;
  return row.count;
}
