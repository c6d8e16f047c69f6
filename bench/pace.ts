import { setTimeout as sleep } from "node:timers/promises";
import { type Bench, type Options, type Result, resultOf, resultWithin } from "./support/bench.ts";
import { clear } from "./support/load.ts";
import { startScript, startSystem, type System } from "./support/system.ts";

/** Requests a second that webhooks ask for. */
const RATES = [10, 100, 500];

interface Stats {
  readonly receipts: readonly (readonly [string, number])[];
}

/**
 * Requests per second that webhooks with a pace receive from two workers, against what they asked
 * for, one beside the other; the most in any second, against two seconds' worth; and how long a tick
 * takes with 10,000 such webhooks that have nothing to do.
 */
export const pace: Bench = async (options) => [...(await received(options)), await idle(options)];

async function received({ rounds, small, say }: Options): Promise<Result[]> {
  const seconds = small ? 5 : 30;
  const results: Result[] = [];
  for (const rate of RATES) {
    const system = await startSystem();
    const receiver = await startScript("receiver.ts");
    const url = `http://127.0.0.1:${receiver.firstLine}/`;
    const rates: [number, number][] = [];
    const bursts: [number, number][] = [];
    try {
      await system.sql`
        select webhookpub.create_webhook(
          'user_1', ${url}, '{email.*}', p_max_per_second => ${rate}::int, p_max_in_flight => 200
        )`;
      for (let round = 0; round < rounds; round += 1) {
        await publish(system, rate * (seconds + 10));
        const stop = await Promise.all([system.startWorker(), system.startWorker()]);
        const stats = async () => (await (await fetch(`${url}stats`)).json()) as Stats;
        while ((await stats()).receipts.length === 0) await sleep(20);
        // A little more, for what comes late.
        await sleep(seconds * 1000 + 500);
        const times = (await stats()).receipts.map(([, at]) => at).toSorted((a, b) => a - b);
        await Promise.all(stop.map((one) => one()));
        await fetch(`${url}stats?reset`);
        const [first = 0] = times;
        const count = times.filter((at) => at < first + seconds * 1000).length;
        rates.push([count / seconds, rate]);
        bursts.push([most(times), rate * 2]);
        say(
          `  ${rate}/s asked for: ${(count / seconds).toFixed(1)}/s over ${seconds} s, ` +
            `at most ${most(times)} in a second`,
        );
      }
    } finally {
      receiver.end();
      await system.remove();
    }
    const what = `pace, ${rate}/s`;
    results.push(resultOf(`${what}, no less`, "per second", rates, { atLeast: 0.97 }));
    results.push(resultOf(`${what}, no more`, "per second", rates, { atMost: 1.03 }));
    results.push(resultOf(`${what}, most in a second`, "requests", bursts, { atMost: 1 }));
  }
  return results;
}

/** The most of these times, in order, that are within one second. */
function most(times: readonly number[]): number {
  let result = 0;
  let from = 0;
  times.forEach((at, i) => {
    while ((times[from] ?? at) <= at - 1000) from += 1;
    result = Math.max(result, i + 1 - from);
  });
  return result;
}

async function publish({ sql }: System, events: number): Promise<void> {
  await clear(sql);
  await sql`truncate webhookpub.paces`;
  await sql`
    select webhook_publish_tx('email.received', 'user_1', '{}')
    from generate_series(1, ${events}::int)`;
  for (;;) {
    const [done] = await sql<[{ event_count: number }]>`select * from webhookpub.fan_out(1000)`;
    if (done.event_count === 0) return;
  }
}

async function idle({ rounds, small, say }: Options): Promise<Result> {
  const webhooks = small ? 1000 : 10_000;
  const system = await startSystem();
  const { sql } = system;
  try {
    await sql`
      select webhookpub.create_webhook(
        'user_' || n, 'https://example.com/', '{email.*}', p_max_per_second => 10
      )
      from generate_series(1, ${webhooks}::int) as n`;
    // All of them have been busy.
    await sql`
      insert into webhookpub.paces (webhook_id, spent_until)
      select w.id, now() from webhookpub.webhooks as w`;
    await sql`vacuum analyze webhookpub.webhooks, webhookpub.paces`;
    const times: number[] = [];
    for (let i = 0; i < rounds * 20; i += 1) {
      const begun = performance.now();
      await sql`select webhookpub.wake('31 seconds')`;
      times.push(performance.now() - begun);
    }
    const result = resultWithin(`pace, a tick with ${webhooks} idle webhooks`, times, 5);
    say(`  a tick takes ${result.value.toFixed(1)} ms`);
    return result;
  } finally {
    await system.remove();
  }
}
