import type { Sql } from "../src/database/connect.ts";
import { type Bench, resultOf, resultWithin } from "./support/bench.ts";
import { clear, drainFanOut, publishEvents, subscribe, timeOf } from "./support/load.ts";
import { startSystem } from "./support/system.ts";

/** What one event to ten thousand webhooks may take, in milliseconds. */
const ONE_MS = 1000;

/**
 * Deliveries per second of fan_out() at three matches an event, against a plain insert …
 * select of the same rows into copies of history and queue with their indexes; the same for one
 * event that matches very many webhooks; and events per second that match nothing, against
 * those that match three.
 */
export const fanOut: Bench = async ({ rounds, small, say }) => {
  const events = small ? 2000 : 20_000;
  const many = small ? 1000 : 10_000;
  const system = await startSystem();
  const { sql } = system;
  try {
    await subscribe(sql);
    await subscribe(sql, { prefix: "deaf_", events: "{email.sent}" });
    await subscribe(sql, { prefix: "many_", users: 1, webhooks: many });
    await sql`create table copied (like webhookpub.delivery_history including all)`;
    await sql`create table copied_queue (like webhookpub.queue including all)`;
    const three: [number, number][] = [];
    const one: [number, number][] = [];
    const none: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      await clear(sql);
      await publishEvents(sql, events);
      await sql`checkpoint`;
      const matching = await drainFanOut(sql);
      three.push([matching * 3, (events * 3 * 1000) / (await copy(sql))]);

      await clear(sql);
      await sql`select webhook_publish_tx('email.received', 'many_1', '{"n": 1}')`;
      await sql`checkpoint`;
      const wide = await timeOf(() => sql`select webhookpub.fan_out()`);
      one.push([wide, await copy(sql)]);

      await clear(sql);
      await sql`
        select webhook_publish_tx('email.received', 'deaf_' || (1 + n % 100), '{"n": 1}')
        from generate_series(1, ${events / 2}::int) as n`;
      await sql`checkpoint`;
      none.push([await drainFanOut(sql), matching]);
      say(
        `  ${events} events × 3: ${(matching * 3).toFixed(0)} deliveries/s, insert … select ` +
          `${three.at(-1)?.[1].toFixed(0)}/s; one event to ${many} webhooks: ` +
          `${wide.toFixed(0)} ms; no match: ${none.at(-1)?.[0].toFixed(0)} events/s`,
      );
    }
    return [
      resultOf("fan-out, 3 matches", "rows/s", three, { atLeast: 0.5 }),
      resultOf(`fan-out, one event to ${many}`, "ms", one, { atMost: 3 }),
      resultWithin(
        "the same",
        one.map(([ms]) => ms),
        ONE_MS,
      ),
      resultOf("fan-out, no match against 3", "events/s", none, { atLeast: 1 }),
    ];
  } finally {
    await system.remove();
  }
};

/** Copies the deliveries with their keys, in their order, to both tables; returns milliseconds. */
async function copy(sql: Sql): Promise<number> {
  await sql`truncate copied, copied_queue`;
  await sql`checkpoint`;
  return await timeOf(
    () => sql`
      with copied as (
        insert into copied (id, webhook_id, event_id, event_type, event_created_at,
          max_attempts, created_at)
        select d.id, d.webhook_id, d.event_id, d.event_type, d.event_created_at,
          d.max_attempts, d.created_at
        from webhookpub.delivery_history as d
        returning id, webhook_id, created_at
      )
      insert into copied_queue (delivery_id, webhook_id, due_at)
      select c.id, c.webhook_id, c.created_at
      from copied as c`,
  );
}
