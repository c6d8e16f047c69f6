import { until } from "../test/support/until.ts";
import { drain } from "./deliver.ts";
import { type Bench, type Options, type Result, resultOf } from "./support/bench.ts";
import { clear, DATA } from "./support/load.ts";
import { startScript, startSystem, type System } from "./support/system.ts";

/** How long the receiver of a single key takes for an answer. */
const ANSWER_MS = 10;

/**
 * Deliveries per second of one worker to ordered webhooks: of 1,000 keys against the same webhooks
 * without order; of a single key, where one request waits for the other, against plain POSTs on
 * one connection.
 */
export const order: Bench = async (options) => [await manyKeys(options), await oneKey(options)];

async function manyKeys({ rounds, small, say }: Options): Promise<Result> {
  const events = small ? 2000 : 10_000;
  const receiver = await startScript("receiver.ts");
  const system = await startSystem();
  try {
    await subscribe(system, `http://127.0.0.1:${receiver.firstLine}/`, 3);
    const measured: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      const rates: number[] = [];
      for (const ordered of [true, false]) {
        await system.sql`update webhookpub.webhooks set ordered = ${ordered}`;
        await publish(system, events, 1000);
        rates.push(await drain(system));
      }
      const [value = 0, baseline = 0] = rates;
      measured.push([value, baseline]);
      say(
        `  ${events * 3} deliveries: in order ${value.toFixed(0)}/s, else ${baseline.toFixed(0)}/s`,
      );
    }
    return resultOf("order, 1,000 keys", "per second", measured, { atLeast: 0.8 });
  } finally {
    receiver.end();
    await system.remove();
  }
}

async function oneKey({ rounds, small, say }: Options): Promise<Result> {
  const events = small ? 100 : 500;
  const receiver = await startScript("receiver.ts", [`${ANSWER_MS}`]);
  const url = `http://127.0.0.1:${receiver.firstLine}/`;
  const system = await startSystem();
  try {
    await subscribe(system, url, 1);
    await system.sql`update webhookpub.webhooks set ordered = true`;
    const measured: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      await publish(system, events, 1);
      const value = await drain(system);
      const raw = await startScript("raw_posts.ts", [url, `${events}`, "1"]);
      measured.push([value, Number(raw.firstLine)]);
      say(
        `  ${events} deliveries of one key, ${ANSWER_MS} ms each: ${value.toFixed(1)}/s; ` +
          `plain POSTs one after another ${Number(raw.firstLine).toFixed(1)}/s`,
      );
    }
    return resultOf("order, one key", "per second", measured, { atLeast: 0.5 });
  } finally {
    receiver.end();
    await system.remove();
  }
}

async function subscribe({ sql }: System, url: string, webhooks: number): Promise<void> {
  await sql`
    select webhookpub.create_webhook('user_1', ${url}, '{email.*}', p_max_in_flight => 100)
    from generate_series(1, ${webhooks}::int)`;
}

/** Publishes and fans out, with no worker yet. */
async function publish({ sql }: System, events: number, keys: number): Promise<void> {
  await clear(sql);
  await sql`
    select webhook_publish_tx(
      'email.received', 'user_1', ${DATA}::text::jsonb, ordering_key => (n % ${keys}::int)::text
    )
    from generate_series(1, ${events}::int) as n`;
  await until(async () => {
    await sql`select webhookpub.fan_out(1000)`;
    return (await sql`select from webhookpub.events where status = 'pending' limit 1`).count === 0;
  }, "the fan-out");
  await sql`vacuum analyze webhookpub.delivery_history, webhookpub.queue`;
  await sql`checkpoint`;
}
