import { setTimeout as sleep } from "node:timers/promises";
import { until } from "../test/support/until.ts";
import { type Bench, type Options, type Result, resultOf } from "./support/bench.ts";
import { subscribe } from "./deliver.ts";
import { perEach, type Spent, spent } from "./support/processor.ts";
import { startScript, startSystem, type System } from "./support/system.ts";

const USERS = 100;
const WEBHOOKS = 3;
const GOAL = { wal: 2500, postgres: 0.55, worker: 80 };

type Stage = "publish" | "fan out" | "deliver" | "in all";

/**
 * What a delivery costs: WAL bytes, and microseconds of processor time of PostgreSQL and of the
 * worker, for 300 webhooks: stage by stage as a backlog is worked off, and at 100 events/s.
 */
export const cost: Bench = async (options) => {
  const own: Spent[] = [];
  const others: Spent[] = [];
  for (let round = 0; round < options.rounds; round += 1) {
    own.push(await measure(options, "this"));
    if (options.against) others.push(await measure(options, "against", options.against));
  }
  const against = (of: (one: Spent) => number, fixed: number): [number, number][] =>
    own.map((one, i) => [of(one), others[i] ? of(others[i]) : fixed]);
  const results: Result[] = [
    resultOf(
      "cost: WAL of a delivery",
      "bytes",
      own.map((one) => [one.wal, GOAL.wal]),
      { atMost: 1 },
    ),
    resultOf(
      "cost: worker, a delivery",
      "µs",
      own.map((one) => [one.worker, GOAL.worker]),
      { atMost: 1 },
    ),
  ];
  if (others.length > 0) {
    results.push(
      resultOf(
        "cost: PostgreSQL, a delivery, against the other checkout",
        "µs",
        against((one) => one.postgres, Number.NaN),
        { atMost: GOAL.postgres },
      ),
    );
  }
  return results;
};

async function measure({ small, say }: Options, name: string, from?: string): Promise<Spent> {
  const system = await startSystem({ from, settings: ["full_page_writes=off"] });
  const receiver = await startScript("receiver.ts");
  try {
    await subscribe(system, `http://127.0.0.1:${receiver.firstLine}/`, {
      users: USERS,
      webhooks: WEBHOOKS,
    });
    // Once for warm plans, caches and code.
    await backlog(system, 500);
    const stages = await backlog(system, small ? 1000 : 10_000);
    for (const [stage, each] of Object.entries(stages)) say(`  ${name}, ${lineOf(stage, each)}`);
    say(`  ${name}, ${lineOf("at 100 events/s", await paced(system, small ? 5 : 20))}`);
    return stages["in all"];
  } finally {
    receiver.end();
    await system.remove();
  }
}

function lineOf(stage: string, { wal, postgres, worker }: Spent): string {
  return (
    `${stage}, a delivery: WAL ${wal.toFixed(0)} bytes, PostgreSQL ${postgres.toFixed(1)} µs, ` +
    `worker ${worker.toFixed(1)} µs`
  );
}

/** Publishes, fans out and delivers, one after the other. */
async function backlog(system: System, events: number): Promise<Record<Stage, Spent>> {
  const { sql } = system;
  const deliveries = events * WEBHOOKS;
  const begun = await spent(sql);
  await sql`
    do $$
    begin
      for n in 1 .. ${sql.unsafe(String(events))} loop
        perform webhook_publish_tx('email.received', 'user_' || 1 + n % 100, jsonb_build_object(
          'subject', 'A subject of ordinary length', 'text', repeat('x', 300), 'n', n));
        commit;
      end loop;
    end $$`.simple();
  const published = await spent(sql);
  for (;;) {
    const [done] = await sql<[{ event_count: number }]>`select * from webhookpub.fan_out()`;
    if (done.event_count === 0) break;
  }
  const fannedOut = await spent(sql);
  const worker = await system.startWorker();
  // What a process costs to start is not what a delivery costs.
  await until(async () => (await pendingOf(system)) < deliveries, "the first one", 60_000);
  const left = await pendingOf(system);
  const started = await spent(sql, worker.pid);
  await settled(system);
  const recorded = await spent(sql, worker.pid);
  await worker();
  const stages = {
    publish: perEach(begun, published, deliveries),
    "fan out": perEach(published, fannedOut, deliveries),
    deliver: perEach(started, recorded, left),
  };
  const sum = (of: (one: Spent) => number) =>
    of(stages.publish) + of(stages["fan out"]) + of(stages.deliver);
  return {
    ...stages,
    "in all": {
      postgres: sum((one) => one.postgres),
      worker: sum((one) => one.worker),
      wal: sum((one) => one.wal),
    },
  };
}

/** Waits for the end, and asks seldom: that costs, too. */
export async function settled({ sql }: System): Promise<void> {
  for (;;) {
    const [row] = await sql<[{ pending: boolean }]>`
      select exists (select from webhookpub.events where status = 'pending')
        or exists (select from webhookpub.deliveries where status = 'pending') as pending`;
    if (!row.pending) return;
    await sleep(100);
  }
}

async function pendingOf({ sql }: System): Promise<number> {
  const [row] = await sql<[{ count: number }]>`
    select count(*)::int as count from webhookpub.deliveries where status = 'pending'`;
  return row.count;
}

/** Publishes 100 events a second while a worker delivers. */
async function paced(system: System, seconds: number): Promise<Spent> {
  const { sql } = system;
  const worker = await system.startWorker();
  const publish = async (from: number, count: number) => {
    const begun = performance.now();
    for (let i = 0; i < count; i += 1) {
      const wait = begun + i * 10 - performance.now();
      if (wait > 0) await sleep(wait);
      await sql`
        select webhook_publish_tx('email.received', ${`user_${1 + (i % USERS)}`},
          jsonb_build_object('subject', 'A subject', 'text', repeat('x', 300), 'n', ${from + i}::int))`;
    }
    await settled(system);
  };
  await publish(0, 200);
  const begun = await spent(sql, worker.pid);
  await publish(200, 100 * seconds);
  const ended = await spent(sql, worker.pid);
  await worker();
  return perEach(begun, ended, 100 * seconds * WEBHOOKS);
}
