import type { Sql } from "../src/database/connect.ts";
import { type Bench, resultOf, resultWithin } from "./support/bench.ts";
import {
  clear,
  drainFanOut,
  drainLeases,
  publishEvents,
  subscribe,
  timeOf,
} from "./support/load.ts";
import { startSystem } from "./support/system.ts";

/** What a tick may take, in milliseconds. */
const TICK_MS = 20;
/** What the sweep may take, which each worker does every 20 s: a hundredth of that. */
const SWEEP_MS = 200;

/**
 * Fan-out and lease in a database with a long history, many retries in the future and many
 * webhooks, against one that is empty but for the 300 webhooks of the load; and what the
 * tick costs there.
 */
export const scale: Bench = async ({ rounds, small, say }) => {
  const events = small ? 1000 : 20_000;
  const size = small
    ? { delivered: 100_000, retries: 10_000, webhooks: 1000 }
    : { delivered: 5_000_000, retries: 500_000, webhooks: 10_000 };
  const system = await startSystem();
  try {
    const empty = system.sql;
    const full = await system.addDatabase("full");
    for (const sql of [empty, full]) await subscribe(sql);
    const built = await timeOf(() => build(full, size));
    say(`  built ${JSON.stringify(size)} in ${(built / 1000).toFixed(0)} s`);

    const measure = async (sql: Sql) => {
      await publishEvents(sql, events);
      await sql`checkpoint`;
      const fannedOut = (await drainFanOut(sql)) * 3;
      await sql`checkpoint`;
      return { fannedOut, leased: await drainLeases(sql) };
    };
    const fanOuts: [number, number][] = [];
    const leases: [number, number][] = [];
    const ticks: number[] = [];
    const sweeps: number[] = [];
    const looks: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      await clear(empty);
      const [none, much] = [await measure(empty), await measure(full)];
      fanOuts.push([much.fannedOut, none.fannedOut]);
      leases.push([much.leased, none.leased]);
      for (let i = 0; i < 20; i += 1) {
        ticks.push(await timeOf(() => full`select webhookpub.wake('31 seconds')`));
        sweeps.push(await timeOf(() => full`select webhookpub.wake(null)`));
        looks.push(await timeOf(() => full`select webhookpub.fan_out()`));
      }
      say(
        `  full: ${much.fannedOut.toFixed(0)} fanned out, ${much.leased.toFixed(0)} leased/s; ` +
          `empty: ${none.fannedOut.toFixed(0)}, ${none.leased.toFixed(0)}; ` +
          `a tick ${ticks.at(-1)?.toFixed(1)} ms, a sweep ${sweeps.at(-1)?.toFixed(1)} ms`,
      );
    }
    return [
      resultOf("fan-out, full tables", "per second", fanOuts, { atLeast: 0.85 }),
      resultOf("lease and record, full tables", "per second", leases, { atLeast: 0.85 }),
      resultWithin("a tick", ticks, TICK_MS),
      resultWithin("a sweep", sweeps, SWEEP_MS),
      resultWithin("fan_out() with nothing to do", looks, TICK_MS),
    ];
  } finally {
    await system.remove();
  }
};

interface Size {
  readonly delivered: number;
  readonly retries: number;
  readonly webhooks: number;
}

/** Fills the tables as a long time of work would; large indexes are made at the end. */
async function build(sql: Sql, { delivered, retries, webhooks }: Size): Promise<void> {
  await subscribe(sql, { prefix: "other_", users: webhooks / 10, webhooks: 10 });
  await sql.begin(async (own) => {
    const indexes = await own<{ name: string; definition: string }[]>`
      select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition
      from pg_index as i
      where i.indrelid = 'webhookpub.delivery_history'::regclass and not i.indisprimary`;
    for (const { name } of indexes) await own.unsafe(`drop index ${name}`);
    await own`alter table webhookpub.delivery_history drop constraint delivery_history_pkey`;
    await own`
      insert into webhookpub.delivery_history
        (id, webhook_id, event_id, event_type, event_created_at, status, attempts,
         max_attempts, last_status_code, last_attempt_at, delivered_at, created_at)
      select
        'whd_' || lpad(to_hex(n), 12, '0') || left(md5(n::text), 20),
        w.ids[1 + n % cardinality(w.ids)],
        'evt_' || md5((n / 3)::text),
        'email.received',
        m.at,
        case when m.is_over then 'delivered' else 'pending' end,
        1,
        8,
        case when m.is_over then 200 else 500 end,
        m.at,
        case when m.is_over then m.at end,
        m.at
      from generate_series(1, ${delivered + retries}::int) as n
      cross join (select array_agg(w.id) as ids from webhookpub.webhooks as w) as w
      cross join lateral (
        select n <= ${delivered}::int as is_over, now() - interval '20 days' as at
      ) as m`;
    await own`alter table webhookpub.delivery_history add constraint delivery_history_pkey primary key (id)`;
    for (const { definition } of indexes) await own.unsafe(definition);
    await own`
      insert into webhookpub.queue (delivery_id, webhook_id, due_at, attempt)
      select
        h.id, h.webhook_id,
        now() + interval '1 hour' + row_number() over () * interval '10 milliseconds', 1
      from webhookpub.delivery_history as h
      where h.status = 'pending'`;
  });
  await sql`vacuum analyze webhookpub.delivery_history, webhookpub.queue`;
  await sql`vacuum analyze webhookpub.webhooks`;
}
