import { type Bench, resultOf } from "./support/bench.ts";
import { startScript, startSystem, type System } from "./support/system.ts";
import { until } from "../test/support/until.ts";

interface Stats {
  readonly deliveries: number;
  readonly duplicates: number;
  readonly peak: number;
}

/**
 * Deliveries per second of one worker, from the first request to the last record, against
 * raw undici POSTs of a body of the same size, to the same receiver, at the same width.
 */
export const deliver: Bench = async ({ rounds, small, say }) => {
  const events = small ? 2000 : 20_000;
  const system = await startSystem();
  const receiver = await startScript("receiver.ts");
  const url = `http://127.0.0.1:${receiver.firstLine}/`;
  try {
    await subscribe(system, url, 100, 3);
    const measured: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      await prepare(system, events);
      await fetch(`${url}stats?reset`);
      const rate = await drain(system);
      const stats = (await (await fetch(`${url}stats?reset`)).json()) as Stats;
      if (stats.deliveries !== events * 3 || stats.duplicates > 0) {
        throw new Error(`received ${stats.deliveries} of ${events * 3}, ${stats.duplicates} twice`);
      }
      const raw = await startScript("raw_posts.ts", [url, `${events * 3}`, `${stats.peak}`]);
      measured.push([rate, Number(raw.firstLine)]);
      say(
        `  ${events * 3} deliveries to 300 webhooks: ${rate.toFixed(0)}/s on ${stats.peak} sockets; ` +
          `raw POSTs ${Number(raw.firstLine).toFixed(0)}/s; none lost, none twice`,
      );
    }
    return [resultOf("deliver, 300 webhooks", "per second", measured, { atLeast: 0.3 })];
  } finally {
    receiver.end();
    await system.remove();
  }
};

async function subscribe({ sql }: System, url: string, users: number, webhooks: number) {
  await sql`
    select webhookpub.create_webhook('user_' || u, ${url}, '{email.*}')
    from generate_series(1, ${users}::int) as u, generate_series(1, ${webhooks}::int)`;
}

/** Publishes and fans out, with no worker yet: the bench is about delivering. */
async function prepare({ sql }: System, events: number): Promise<void> {
  await sql`truncate webhookpub.events, webhookpub.envelopes, webhookpub.deliveries, webhookpub.attempts`;
  await sql`
    select webhook_publish_tx('email.received', 'user_' || (1 + n % 100), jsonb_build_object(
      'subject', 'A subject of ordinary length', 'text', repeat('x', 300), 'n', n
    )) from generate_series(1, ${events}::int) as n`;
  for (;;) {
    const [done] = await sql<[{ event_count: number }]>`select * from webhookpub.fan_out(1000)`;
    if (done.event_count === 0) break;
  }
  await sql`vacuum analyze webhookpub.deliveries`;
  await sql`checkpoint`;
}

async function drain({ sql, startWorker }: System): Promise<number> {
  const stop = await startWorker();
  await until(
    async () =>
      (await sql`select from webhookpub.deliveries where status = 'pending' limit 1`).count === 0,
    "the deliveries",
    600_000,
  );
  await stop();
  const [row] = await sql<[{ rate: number; other: number }]>`
    select
      (count(*) / extract(epoch from max(delivered_at) - min(last_attempt_at)))::float8 as rate,
      count(*) filter (where status <> 'delivered' or attempts <> 1)::int as other
    from webhookpub.deliveries`;
  if (row.other > 0) throw new Error(`${row.other} deliveries did not succeed at once`);
  return row.rate;
}
