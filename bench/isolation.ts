import { setTimeout as sleep } from "node:timers/promises";
import type { Sql } from "../src/database/connect.ts";
import { until } from "../test/support/until.ts";
import { type Bench, quantile, resultOf, unsteady } from "./support/bench.ts";
import { clear, publishEvents } from "./support/load.ts";
import { canHaveNameServer, startScript, startSystem } from "./support/system.ts";

const NAME_SERVER = "127.0.0.77";
const HEALTHY = "healthy.example";
const USERS = 20;

/** A user beside whom the others must go on. */
interface Other {
  readonly what: string;
  /** %s in it is the number of each webhook. */
  readonly url: string;
  readonly webhooks: number;
  /** They get no answer: most of what is due for them stays so. */
  readonly silent: boolean;
}

/**
 * From commit to receipt, at the 95th percentile, for users with one webhook each whose
 * receiver answers: alone; while another user has very many due deliveries to receivers that hang
 * until the deadline, or to names that get no answer from the DNS; and from the instant on in
 * which another user's burst goes to ten thousand webhooks that answer. One worker, as it is by
 * default.
 */
export const isolation: Bench = async ({ rounds, small, say }) => {
  const seconds = small ? 5 : 30;
  const due = small ? 250 : 100_000;
  const silentWebhooks = small ? 50 : 500;
  const named = canHaveNameServer();
  const system = await startSystem();
  const receiver = await startScript("receiver.ts");
  const busy = await startScript("receiver.ts");
  const hanging = await startScript("silent.ts", named ? [NAME_SERVER, HEALTHY, "127.0.0.1"] : []);
  const { sql } = system;
  const stats = `http://127.0.0.1:${receiver.firstLine}/stats`;
  try {
    await sql`
      select webhookpub.create_webhook('user_' || u, ${urlOf(named ? HEALTHY : "127.0.0.1", receiver)}, '{email.*}')
      from generate_series(1, ${USERS}::int) as u`;

    const p95 = async (): Promise<number> => {
      await fetch(`${stats}?reset`);
      const committed = new Map<string, number>();
      const end = performance.now() + seconds * 1000;
      for (let n = 0; performance.now() < end; n += 1) {
        const [row] = await sql<[{ id: string }]>`
          select webhook_publish_tx('email.received', ${`user_${1 + (n % USERS)}`}, '{"n": 1}') as id`;
        committed.set(row.id, performance.timeOrigin + performance.now());
        await sleep(20);
      }
      let receipts: [string, number][] = [];
      await until(async () => {
        const seen = (await (await fetch(stats)).json()) as { receipts: typeof receipts };
        receipts = seen.receipts;
        return receipts.length >= committed.size;
      }, "the receipts");
      return quantile(
        receipts.map(([id, at]) => at - (committed.get(id) ?? at)),
        0.95,
      );
    };

    const beside = async ({ what, url, webhooks, silent }: Other): Promise<[number, number]> => {
      for (let first = 1; first <= webhooks; first += 1000) {
        await sql`
          select webhookpub.create_webhook('other', replace(${url}, '%s', n::text), '{email.*}',
            p_request_timeout => ${small ? "4 s" : "15 s"})
          from generate_series(${first}::int, ${Math.min(first + 999, webhooks)}::int) as n`;
      }
      const stop = await system.startWorker(named ? { nameServer: NAME_SERVER } : {});
      // Connections, plans, code: the first seconds are no one's figure.
      await publishEvents(sql, 100, USERS);
      await until(() => isIdle(sql), "the first deliveries");
      const alone = await p95();
      const [burst] = await Promise.all([
        p95(),
        sql`
          select webhook_publish_tx('email.received', 'other', '{"n": 1}')
          from generate_series(1, ${due / webhooks}::int)`,
      ]);
      const disturbed = silent ? await p95() : burst;
      const [waiting, open] = [await dueCount(sql), await underWay(sql)];
      say(
        `  ${what}: alone ${alone.toFixed(0)} ms, from the burst on ${burst.toFixed(0)} ms` +
          (silent ? `, then ${disturbed.toFixed(0)} ms` : "") +
          `; at the end ${open} under way and ${waiting} due`,
      );
      await stop();
      await clear(sql);
      await sql`delete from webhookpub.webhooks where user_id = 'other'`;
      return [disturbed, alone];
    };

    const quiet = { webhooks: silentWebhooks, silent: true };
    const others: Other[] = [
      { ...quiet, what: "receivers that hang", url: urlOf("127.0.0.1", hanging) },
      ...(named ? [{ ...quiet, what: "a silent DNS", url: "http://black-hole-%s.example/" }] : []),
      {
        what: "a burst to many",
        url: urlOf("127.0.0.1", busy),
        webhooks: due / 10,
        silent: false,
      },
    ];
    if (!named) say("  no mount namespace, or no port 53, can be had here: nothing about the DNS");
    const measured: [number, number][][] = others.map(() => []);
    for (let round = 0; round < rounds; round += 1) {
      for (const [i, other] of others.entries()) measured[i]?.push(await beside(other));
    }
    return others.map(({ what }, i) =>
      unsteady(resultOf(`p95 beside ${what}`, "ms", measured[i] ?? [], { atMost: 2 })),
    );
  } finally {
    receiver.end();
    hanging.end();
    busy.end();
    await system.remove();
  }
};

function urlOf(host: string, { firstLine }: { firstLine: string }): string {
  return `http://${host}:${firstLine}/`;
}

async function isFannedOut(sql: Sql): Promise<boolean> {
  return (await sql`select from webhookpub.events where status = 'pending' limit 1`).count === 0;
}

async function isIdle(sql: Sql): Promise<boolean> {
  const pending = await sql`select from webhookpub.queue limit 1`;
  return pending.count === 0 && (await isFannedOut(sql));
}

async function underWay(sql: Sql): Promise<number> {
  return (await sql`select from webhookpub.queue where leased`).count;
}

async function dueCount(sql: Sql): Promise<number> {
  const [row] = await sql<[{ count: number }]>`
    select count(*)::int as count
    from webhookpub.queue
    where due_at <= now()`;
  return row.count;
}
