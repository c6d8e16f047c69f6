import { type Bench, resultOf } from "./support/bench.ts";
import { startSystem } from "./support/system.ts";

/**
 * Deliveries per second of fan_out() at three matches an event, against a plain insert …
 * select of as many rows into a copy of the table with its indexes.
 */
export const fanOut: Bench = async ({ rounds, small, say }) => {
  const events = small ? 2000 : 20_000;
  const system = await startSystem();
  const { sql } = system;
  try {
    await sql`
      select webhookpub.create_webhook('user_' || u, 'https://example.com/', '{email.*}')
      from generate_series(1, 100) as u, generate_series(1, 3)`;
    await sql`create table copied (like webhookpub.deliveries including all)`;
    const measured: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      await sql`truncate webhookpub.events, webhookpub.envelopes, webhookpub.deliveries, copied`;
      await sql`
        select webhook_publish_tx('email.received', 'user_' || (1 + n % 100), '{"n": 1}')
        from generate_series(1, ${events}::int) as n`;
      await sql`checkpoint`;
      let begun = performance.now();
      for (;;) {
        const [done] = await sql<[{ event_count: number }]>`select * from webhookpub.fan_out()`;
        if (done.event_count === 0) break;
      }
      const fannedOut = (events * 3 * 1000) / (performance.now() - begun);
      await sql`checkpoint`;
      begun = performance.now();
      await sql`
        insert into copied (id, webhook_id, event_id, event_type, event_created_at,
          max_attempts, next_attempt_at, created_at, expires_at)
        select 'whd_' || md5(d.id), d.webhook_id, d.event_id, d.event_type,
          d.event_created_at, d.max_attempts, d.next_attempt_at, d.created_at, d.expires_at
        from webhookpub.deliveries as d`;
      const copied = (events * 3 * 1000) / (performance.now() - begun);
      measured.push([fannedOut, copied]);
      say(
        `  ${events} events × 3: ${fannedOut.toFixed(0)}/s; insert … select ${copied.toFixed(0)}/s`,
      );
    }
    return [resultOf("fan-out, 3 matches", "rows/s", measured, { atLeast: 0.3 })];
  } finally {
    await system.remove();
  }
};
