import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type { Sql } from "../src/database/connect.ts";
import { until } from "../test/support/until.ts";
import { type Bench, median, resultOf } from "./support/bench.ts";
import { drainFanOut } from "./support/load.ts";
import { startScript, startSystem } from "./support/system.ts";

/** What a worker may hold, in MB of resident memory. */
const LIMIT_MB = 200;
/** So many users that fair shares leave next to nothing unused. */
const USERS = 500;
const WEBHOOKS = USERS * 2;

/**
 * Resident memory of one worker that has very many due deliveries and as many requests under
 * way as it may, to receivers that take their time: the most against what it may hold, and
 * what it has at the end against what it had after a third.
 */
export const memory: Bench = async ({ rounds, small, say }) => {
  const seconds = small ? 9 : 600;
  const events = small ? 20 : 170;
  const system = await startSystem();
  const receiver = await startScript("receiver.ts", [`${small ? 2000 : 10_000}`]);
  const { sql } = system;
  try {
    await sql`
      select webhookpub.create_webhook('user_' || n % ${USERS},
        ${`http://127.0.0.1:${receiver.firstLine}/`}, '{email.*}')
      from generate_series(1, ${WEBHOOKS}::int) as n`;
    const most: [number, number][] = [];
    const flat: [number, number][] = [];
    for (let round = 0; round < rounds; round += 1) {
      await sql`
        select webhook_publish_tx('email.received', 'user_' || u, '{"n": 1}')
        from generate_series(1, ${events}::int), generate_series(0, ${USERS - 1}::int) as u`;
      await drainFanOut(sql);
      const stop = await system.startWorker();
      await until(async () => (await underWay(sql)) > 950, "a thousand requests under way");
      const sizes: number[] = [];
      const requests: number[] = [];
      for (const end = performance.now() + seconds * 1000; performance.now() < end;) {
        sizes.push(await residentMb(stop.pid));
        requests.push(await underWay(sql));
        await sleep(1000);
      }
      const left = await due(sql);
      await stop();
      const third = Math.floor(sizes.length / 3);
      const [early, late] = [median(sizes.slice(0, 2 * third)), median(sizes.slice(-third))];
      most.push([Math.max(...sizes), LIMIT_MB]);
      flat.push([late, early]);
      say(
        `  ${Math.max(...sizes).toFixed(0)} MB at most, ${early.toFixed(0)} early, ` +
          `${late.toFixed(0)} in the end; ${median(requests)} requests under way, ${left} still due`,
      );
    }
    return [
      resultOf("memory, against what it may be", "MB", most, { atMost: 1 }),
      resultOf("memory in the last third, against before", "MB", flat, { atMost: 1.1 }),
    ];
  } finally {
    receiver.end();
    await system.remove();
  }
};

async function residentMb(pid: number): Promise<number> {
  const { stdout } = await promisify(execFile)("ps", ["-o", "rss=", "-p", `${pid}`]);
  return Number(stdout) / 1024;
}

async function underWay(sql: Sql): Promise<number> {
  return (await sql`select from webhookpub.queue where leased`).count;
}

async function due(sql: Sql): Promise<number> {
  const [row] = await sql<[{ count: number }]>`
    select count(*)::int as count from webhookpub.queue`;
  return row.count;
}
