import { setTimeout as sleep } from "node:timers/promises";
import type { Sql } from "../src/client.ts";
import { until } from "../test/support/until.ts";
import { type Bench, quantile, resultOf } from "./support/bench.ts";
import { clear, publishEvents } from "./support/load.ts";
import { canHaveNameServer, startScript, startSystem } from "./support/system.ts";

const NAME_SERVER = "127.0.0.77";
const HEALTHY = "healthy.example";
const USERS = 20;
const SILENT_WEBHOOKS = 500;

/**
 * From commit to receipt, at the 95th percentile, for webhooks whose receivers answer: alone;
 * while another tenant has very many due deliveries to receivers that hang until the deadline;
 * and while hundreds of names get no answer from the DNS. One worker, as it is by default.
 */
export const isolation: Bench = async ({ rounds, small, say }) => {
  const seconds = small ? 2 : 30;
  const due = small ? 10_000 : 100_000;
  const named = canHaveNameServer();
  const system = await startSystem();
  const receiver = await startScript("receiver.ts");
  const silent = await startScript("silent.ts", named ? [NAME_SERVER, HEALTHY, "127.0.0.1"] : []);
  const { sql } = system;
  const stats = `http://127.0.0.1:${receiver.firstLine}/stats`;
  try {
    await sql`
      select webhookpub.create_webhook('user_' || u, ${url(named ? HEALTHY : "127.0.0.1", receiver)}, '{email.*}')
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

    /**
     * Alone, and then beside webhooks that get no answer; %s in their URL is the number of
     * each.
     */
    const beside = async (what: string, silentUrl: string): Promise<[number, number]> => {
      const stop = await system.startWorker(named ? { nameServer: NAME_SERVER } : {});
      // Connections, plans, code: the first seconds are no one's figure.
      await publishEvents(sql, 100, USERS);
      await until(() => isIdle(sql), "the first deliveries");
      const alone = await p95();
      await sql`
        select webhookpub.create_webhook('silent', replace(${silentUrl}, '%s', n::text), '{email.*}',
          p_request_timeout => ${small ? "4 s" : "15 s"})
        from generate_series(1, ${SILENT_WEBHOOKS}::int) as n`;
      await sql`
        select webhook_publish_tx('email.received', 'silent', '{"n": 1}')
        from generate_series(1, ${due / SILENT_WEBHOOKS}::int)`;
      // As many as fair shares give it, of 1000: the figure is that of every second, not of
      // the first.
      await until(async () => (await underWay(sql)) > 400, "the silent requests");
      await until(() => isFannedOut(sql), "the fan-out");
      const disturbed = await p95();
      const [waiting, open] = [await dueCount(sql), await underWay(sql)];
      say(
        `  ${what}: ${disturbed.toFixed(0)} ms, alone ${alone.toFixed(0)} ms; ` +
          `at the end ${open} under way and ${waiting} due`,
      );
      await stop();
      await clear(sql);
      await sql`delete from webhookpub.webhooks where user_id = 'silent'`;
      return [disturbed, alone];
    };

    const hanging: [number, number][] = [];
    const unnamed: [number, number][] = [];
    if (!named) say("  no mount namespace, or no port 53, can be had here: nothing about the DNS");
    for (let round = 0; round < rounds; round += 1) {
      hanging.push(await beside("receivers hang", url("127.0.0.1", silent)));
      if (named) unnamed.push(await beside("names get no answer", "http://black-hole-%s.example/"));
    }
    return [
      resultOf("p95 beside receivers that hang", "ms", hanging, { atMost: 2 }),
      ...(named ? [resultOf("p95 beside a silent DNS", "ms", unnamed, { atMost: 2 })] : []),
    ];
  } finally {
    receiver.end();
    silent.end();
    await system.remove();
  }
};

function url(host: string, { firstLine }: { firstLine: string }): string {
  return `http://${host}:${firstLine}/`;
}

async function isFannedOut(sql: Sql): Promise<boolean> {
  return (await sql`select from webhookpub.events where status = 'pending' limit 1`).count === 0;
}

async function isIdle(sql: Sql): Promise<boolean> {
  const pending = await sql`select from webhookpub.deliveries where status = 'pending' limit 1`;
  return pending.count === 0 && (await isFannedOut(sql));
}

async function underWay(sql: Sql): Promise<number> {
  return (await sql`select from webhookpub.deliveries where leased`).count;
}

async function dueCount(sql: Sql): Promise<number> {
  const [row] = await sql<[{ count: number }]>`
    select count(*)::int as count
    from webhookpub.deliveries
    where status = 'pending' and next_attempt_at <= now()`;
  return row.count;
}
