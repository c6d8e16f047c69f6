import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { until } from "../test/support/until.ts";
import { drain, prepare, subscribe } from "./deliver.ts";
import { type Bench, median, quantile, resultOf, resultWithin, unsteady } from "./support/bench.ts";
import { startScript, startSystem } from "./support/system.ts";

/** What the 99th percentile may be at half of the maximum, in milliseconds. */
const HALF_LOAD_MS = 250;
const PUBLISHERS = 8;
const now = () => performance.timeOrigin + performance.now();

/**
 * From commit to receipt, at rest (one event every two seconds or so, so that each has to
 * wake everything) and at 100 events/s, against one commit plus one POST at the same pace; and
 * at half of what one worker delivers at most, against 250 ms.
 */
export const latency: Bench = async ({ rounds, small, say }) => {
  const system = await startSystem();
  const receiver = await startScript("receiver.ts");
  const url = `http://127.0.0.1:${receiver.firstLine}/`;
  const { sql } = system;
  let stop = async () => {};
  try {
    await sql`select webhookpub.create_webhook('user_of_one', ${url}, '{*}')`;
    await subscribe(system, url, { users: 100, webhooks: 3 });
    await sql`create table bare (id bigint generated always as identity, body text)`;
    const maximum = small ? 0 : await maximumOf();
    stop = await system.startWorker();

    const base = async (): Promise<number> => {
      const begun = performance.now();
      await sql`insert into bare (body) values ('x')`;
      await (await request(url, { method: "POST", body: "{}" })).body.text();
      return performance.now() - begun;
    };
    const publish = async (userId: string, committed: Map<string, number>): Promise<void> => {
      const [row] = await sql<[{ id: string }]>`
        select webhook_publish_tx('email.received', ${userId}, '{"n": 1}') as id`;
      committed.set(row.id, now());
    };
    /** Milliseconds of each delivery, when all have come. */
    const receipts = async (committed: Map<string, number>, each = 1): Promise<number[]> => {
      let seen: [string, number][] = [];
      await until(
        async () => {
          const stats = (await (await fetch(`${url}stats`)).json()) as { receipts: typeof seen };
          seen = stats.receipts.filter(([id]) => committed.has(id));
          return seen.length >= committed.size * each;
        },
        "the receipts",
        600_000,
      );
      await fetch(`${url}stats?reset`);
      return seen.map(([id, at]) => Math.max(0, at - (committed.get(id) ?? at)));
    };
    /** Events, and between them what they are compared with. */
    const paced = async (count: number, pauseMs: number) => {
      const committed = new Map<string, number>();
      const bases = [];
      for (let i = 0; i < count; i += 1) {
        await publish("user_of_one", committed);
        await sleep(pauseMs / 2);
        bases.push(await base());
        await sleep(pauseMs / 2);
      }
      return { took: await receipts(committed), base: median(bases) };
    };
    const loaded = async (perSecond: number, seconds: number): Promise<number[]> => {
      const committed = new Map<string, number>();
      const begun = performance.now();
      let next = 0;
      await Promise.all(
        Array.from({ length: PUBLISHERS }, async () => {
          for (;;) {
            const i = next++;
            const wait = begun + (i * 1000) / perSecond - performance.now();
            if (i >= perSecond * seconds) return;
            if (wait > 0) await sleep(wait);
            await publish(`user_${1 + (i % 100)}`, committed);
          }
        }),
      );
      return receipts(committed, 3);
    };

    const medians: Record<"rest" | "busy", [number, number][]> = { rest: [], busy: [] };
    const tails: Record<"rest" | "busy", [number, number][]> = { rest: [], busy: [] };
    const halves: number[] = [];
    await paced(3, 2000);
    for (let round = 0; round < rounds; round += 1) {
      const rest = await paced(small ? 4 : 20, 2100);
      const busy = await paced(small ? 200 : 1000, 9);
      for (const [name, { took, base }] of Object.entries({ rest, busy })) {
        medians[name as "rest"].push([median(took), base]);
        tails[name as "rest"].push([quantile(took, 0.99), base]);
        say(
          `  commit to receipt, ${name === "rest" ? "at rest" : "at 100/s"}: ` +
            `${median(took).toFixed(1)} ms, p99 ${quantile(took, 0.99).toFixed(1)}; ` +
            `commit + POST ${base.toFixed(2)} ms`,
        );
      }
      if (maximum > 0) {
        const half = await loaded(maximum / 2 / 3, 10);
        halves.push(quantile(half, 0.99));
        say(
          `  at ${(maximum / 2).toFixed(0)} deliveries/s, half of the maximum: ` +
            `${median(half).toFixed(1)} ms, p99 ${quantile(half, 0.99).toFixed(1)}`,
        );
      }
    }
    const results = [
      resultOf("latency at rest, median", "ms", medians.rest, { atMost: 5 }),
      unsteady(resultOf("latency at rest, p99", "ms", tails.rest, { atMost: 20 })),
      resultOf("latency at 100/s, median", "ms", medians.busy, { atMost: 5 }),
      unsteady(resultOf("latency at 100/s, p99", "ms", tails.busy, { atMost: 20 })),
    ];
    if (maximum > 0) {
      results.push(resultWithin("latency at half load, p99", halves, HALF_LOAD_MS));
    }
    return results;
  } finally {
    await stop();
    receiver.end();
    await system.remove();
  }

  /** Deliveries per second of one worker that has nothing else to do. */
  async function maximumOf(): Promise<number> {
    await prepare(system, { events: 10_000, users: 100 });
    const rate = await drain(system);
    await fetch(`${url}stats?reset`);
    return rate;
  }
};
