import { type Bench, type Options, type Result, resultOf } from "./support/bench.ts";
import { startScript, startSystem, type System } from "./support/system.ts";
import { until } from "../test/support/until.ts";

interface Stats {
  readonly deliveries: number;
  readonly duplicates: number;
  readonly peak: number;
}

/**
 * Deliveries per second of one worker, from the first request to the last record, against
 * raw undici POSTs of a body of the same size, to the same receiver, at the same width: many
 * deliveries to 300 webhooks, and one to each of 20,000.
 */
export const deliver: Bench = async (options) => [
  await measure(options, "300 webhooks", { users: 100, webhooks: 3, events: 20_000 }, 0.45),
  await measure(
    options,
    "one delivery to each webhook",
    { users: 20_000, webhooks: 1, events: 20_000 },
    0.35,
  ),
];

interface Load {
  readonly users: number;
  /** Of each user; all get each of the user's events. */
  readonly webhooks: number;
  readonly events: number;
}

async function measure(
  { rounds, small, say }: Options,
  what: string,
  load: Load,
  atLeast: number,
): Promise<Result> {
  const events = small ? load.events / 10 : load.events;
  const users = Math.min(load.users, events);
  const deliveries = events * load.webhooks;
  const system = await startSystem();
  const receiver = await startScript("receiver.ts");
  const url = `http://127.0.0.1:${receiver.firstLine}/`;
  try {
    await subscribe(system, url, { users, webhooks: load.webhooks });
    const measured: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      await prepare(system, { events, users });
      await fetch(`${url}stats?reset`);
      const rate = await drain(system);
      const stats = (await (await fetch(`${url}stats?reset`)).json()) as Stats;
      if (stats.deliveries !== deliveries || stats.duplicates > 0) {
        throw new Error(`received ${stats.deliveries} of ${deliveries}, ${stats.duplicates} twice`);
      }
      const raw = await startScript("raw_posts.ts", [url, `${deliveries}`, `${stats.peak}`]);
      measured.push([rate, Number(raw.firstLine)]);
      say(
        `  ${deliveries} deliveries to ${users * load.webhooks} webhooks: ` +
          `${rate.toFixed(0)}/s on ${stats.peak} sockets; ` +
          `raw POSTs ${Number(raw.firstLine).toFixed(0)}/s; none lost, none twice`,
      );
    }
    return resultOf(`deliver, ${what}`, "per second", measured, { atLeast });
  } finally {
    receiver.end();
    await system.remove();
  }
}

/** Makes webhooks; a few users at a time, for each user's lock is kept to the end. */
export async function subscribe(
  { sql }: System,
  url: string,
  { users, webhooks }: { users: number; webhooks: number },
): Promise<void> {
  for (let first = 1; first <= users; first += 1000) {
    await sql`
      select webhookpub.create_webhook('user_' || u, ${url}, '{email.*}')
      from generate_series(${first}::int, ${Math.min(first + 999, users)}::int) as u,
        generate_series(1, ${webhooks}::int)`;
  }
}

/** Publishes and fans out, with no worker yet: the bench is about delivering. */
export async function prepare(
  { sql }: System,
  { events, users }: { events: number; users: number },
): Promise<void> {
  await sql`truncate webhookpub.events, webhookpub.envelopes, webhookpub.delivery_history, webhookpub.queue,
      webhookpub.attempts`;
  await sql`
    select webhook_publish_tx('email.received', 'user_' || (1 + n % ${users}::int), jsonb_build_object(
      'subject', 'A subject of ordinary length', 'text', repeat('x', 300), 'n', n
    )) from generate_series(1, ${events}::int) as n`;
  for (;;) {
    const [done] = await sql<[{ event_count: number }]>`select * from webhookpub.fan_out(1000)`;
    if (done.event_count === 0) break;
  }
  await sql`vacuum analyze webhookpub.delivery_history, webhookpub.queue`;
  await sql`checkpoint`;
}

/** Starts a worker and waits until nothing is pending; returns deliveries per second. */
export async function drain({ sql, startWorker }: System): Promise<number> {
  const stop = await startWorker();
  await until(
    async () => (await sql`select from webhookpub.queue limit 1`).count === 0,
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
