import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { until } from "../test/support/until.ts";
import { type Bench, median, quantile, resultOf } from "./support/bench.ts";
import { startScript, startSystem } from "./support/system.ts";

/**
 * From commit to receipt, at rest (one event every two seconds or so, so that each has to
 * wake everything) and at 100 events/s, against one commit plus one POST.
 */
export const latency: Bench = async ({ rounds, small, say }) => {
  const system = await startSystem();
  const receiver = await startScript("receiver.ts");
  const url = `http://127.0.0.1:${receiver.firstLine}/`;
  const { sql } = system;
  const stop = await system.startWorker();
  try {
    await sql`select webhookpub.create_webhook('user_1', ${url}, '{*}')`;
    await sql`create table bare (id bigint generated always as identity, body text)`;

    const baseline = async (count: number): Promise<number[]> => {
      const took = [];
      for (let i = 0; i < count; i += 1) {
        const begun = performance.now();
        await sql`insert into bare (body) values ('x')`;
        await (await request(url, { method: "POST", body: "{}" })).body.text();
        took.push(performance.now() - begun);
      }
      return took;
    };
    const events = async (count: number, pauseMs: number): Promise<number[]> => {
      await fetch(`${url}stats?reset`);
      const committed = new Map<string, number>();
      for (let i = 0; i < count; i += 1) {
        const [row] = await sql<[{ id: string }]>`
          select webhook_publish_tx('email.received', 'user_1', '{"n": 1}') as id`;
        committed.set(row.id, performance.timeOrigin + performance.now());
        await sleep(pauseMs);
      }
      let receipts: [string, number][] = [];
      await until(async () => {
        const stats = (await (await fetch(`${url}stats`)).json()) as { receipts: typeof receipts };
        receipts = stats.receipts;
        return receipts.length >= count;
      }, "the receipts");
      return receipts.map(([id, at]) => Math.max(0, at - (committed.get(id) ?? at)));
    };

    const load = { rest: small ? 3 : 10, busy: small ? 200 : 1000 };
    const medians: Record<string, [number, number][]> = { rest: [], busy: [] };
    const tails: [number, number][] = [];
    await events(3, 2000);
    for (let round = 0; round < rounds; round += 1) {
      const base = await baseline(100);
      const rest = await events(load.rest, 2100);
      const busy = await events(load.busy, 10);
      medians["rest"]?.push([median(rest), median(base)]);
      medians["busy"]?.push([median(busy), median(base)]);
      tails.push([quantile(busy, 0.99), median(base)]);
      say(
        `  commit to receipt: at rest ${median(rest).toFixed(1)} ms ` +
          `(worst ${quantile(rest, 1).toFixed(1)}), at 100/s ${median(busy).toFixed(1)} ms ` +
          `(p99 ${quantile(busy, 0.99).toFixed(1)}); commit + POST ${median(base).toFixed(1)} ms`,
      );
    }
    return [
      resultOf("latency at rest, median", "ms", medians["rest"] ?? [], { atMost: 25 }),
      resultOf("latency at 100/s, median", "ms", medians["busy"] ?? [], { atMost: 25 }),
      resultOf("latency at 100/s, p99", "ms", tails, { atMost: 60 }),
    ];
  } finally {
    await stop();
    receiver.end();
    await system.remove();
  }
};
