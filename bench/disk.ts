import type { Sql } from "../src/database/connect.ts";
import { type Bench, type Result, resultOf } from "./support/bench.ts";
import { DATA, drainFanOut, drainLeases, subscribe } from "./support/load.ts";
import { startSystem } from "./support/system.ts";

const USERS = 100;
const WEBHOOKS = 3;
const STEP = 2_000;

/** Bytes on disk, indexes included, that an event and its deliveries may leave behind. */
const GOAL = { delivery: 1000, attempt: 500, event: 2000 };

/**
 * What stays on disk of an event of 300 bytes that three webhooks match, each delivered at the first
 * attempt, until retention takes it: tables with their indexes, vacuumed as a server does it in time.
 */
export const disk: Bench = async ({ small, say }) => {
  const events = small ? 4_000 : 40_000;
  const system = await startSystem();
  try {
    const { sql } = system;
    await subscribe(sql, { users: USERS, webhooks: WEBHOOKS });
    const before = await bytes(sql);
    for (let done = 0; done < events; done += STEP) {
      await sql`
        select webhook_publish_tx('email.received', 'user_' || (1 + n % ${USERS}), ${DATA}::text::jsonb)
        from generate_series(1, ${STEP}::int) as n`;
      await drainFanOut(sql);
      await drainLeases(sql);
      await sql`vacuum analyze`;
    }
    const after = await bytes(sql);
    const deliveries = events * WEBHOOKS;
    const each = (count: number, ...tables: string[]) =>
      tables.reduce((sum, name) => sum + (after.get(name) ?? 0) - (before.get(name) ?? 0), 0) /
      count;
    const result = (what: string, value: number, goal: number): Result =>
      resultOf(`disk: ${what}`, "bytes", [[value, goal]], { atMost: 1 });
    say(`  ${events} events, ${deliveries} deliveries`);
    return [
      result("an event and its envelope", each(events, "events", "envelopes"), GOAL.event),
      result("a delivery", each(deliveries, "delivery_history", "queue"), GOAL.delivery),
      result("an attempt", each(deliveries, "attempts"), GOAL.attempt),
    ];
  } finally {
    await system.remove();
  }
};

/** The size of each table, with its partitions, indexes and TOAST. */
async function bytes(sql: Sql): Promise<Map<string, number>> {
  const rows = await sql<{ name: string; bytes: number }[]>`
    select coalesce(p.relname, c.relname) as name,
      sum(pg_total_relation_size(c.oid))::double precision as bytes
    from pg_class as c
    left join pg_inherits as i on i.inhrelid = c.oid
    left join pg_class as p on p.oid = i.inhparent
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind = 'r'
    group by 1`;
  return new Map(rows.map((row) => [row.name, row.bytes]));
}
