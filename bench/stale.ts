import { answerTo } from "../src/deliver/answer.ts";
import type { Sql } from "../src/database/connect.ts";
import { type Lease, recordAttempts } from "../src/database/calls.ts";
import { leaseDeliveries } from "../test/support/leases.ts";
import { type Bench, median, type Options, type Result, resultOf } from "./support/bench.ts";
import {
  clear,
  drainFanOut,
  drainLeases,
  publishEvents,
  subscribe,
  timeOf,
} from "./support/load.ts";
import { startSystem, type System } from "./support/system.ts";

const TABLES = [
  "events",
  "envelopes",
  "delivery_history",
  "queue",
  "attempts",
  "webhooks",
  "secrets",
];

/**
 * Fan-out and lease with statistics that were taken when all tables were empty, against
 * fresh ones: in large batches, and one by one in a session that keeps its plans from then.
 */
export const stale: Bench = async (options) => {
  const system = await startSystem({ settings: ["autovacuum=off"] });
  try {
    return [...(await oneByOne(system, options)), ...(await inBatches(system, options))];
  } finally {
    await system.remove();
  }
};

async function inBatches({ sql }: System, { rounds, small, say }: Options): Promise<Result[]> {
  const events = small ? 1000 : 20_000;
  const measure = async (analyze: "when empty" | "when full") => {
    await clear(sql);
    await sql`truncate webhookpub.webhooks, webhookpub.secrets`;
    if (analyze === "when empty") await analyzeAll(sql);
    await subscribe(sql);
    await publishEvents(sql, events);
    if (analyze === "when full") await analyzeAll(sql);
    await sql`checkpoint`;
    const fannedOut = await drainFanOut(sql);
    if (analyze === "when full") await analyzeAll(sql);
    await sql`checkpoint`;
    return { fannedOut: fannedOut * 3, leased: await drainLeases(sql) };
  };
  const fanOuts: [number, number][] = [];
  const leases: [number, number][] = [];
  for (let round = 0; round < rounds; round += 1) {
    const empty = await measure("when empty");
    const full = await measure("when full");
    fanOuts.push([empty.fannedOut, full.fannedOut]);
    leases.push([empty.leased, full.leased]);
    say(
      `  stale: ${empty.fannedOut.toFixed(0)} fanned out, ${empty.leased.toFixed(0)} leased/s; ` +
        `fresh: ${full.fannedOut.toFixed(0)}, ${full.leased.toFixed(0)}`,
    );
  }
  return [
    resultOf("fan-out, stale statistics", "per second", fanOuts, { atLeast: 0.8 }),
    resultOf("lease and record, stale statistics", "per second", leases, { atLeast: 0.8 }),
  ];
}

/** Users with one webhook each. */
const USERS = 50;
const STEPS = ["fan-out of one event", "lease of one delivery", "record of one answer"] as const;

/**
 * In two databases: in one the session is as old as the tables are, and nobody analyses them;
 * in the other it comes when they have grown and have been analysed.
 */
async function oneByOne(system: System, { rounds, small, say }: Options): Promise<Result[]> {
  const share = small ? 0.1 : 1;
  const old = system.sql;
  const fresh = await system.addDatabase("fresh");
  for (const sql of [old, fresh]) await subscribe(sql, { users: USERS, webhooks: 1 });
  await analyzeAll(old);
  const oldSession = await old.reserve();
  for (let i = 0; i < 10; i += 1) await one(old, oldSession);
  for (const sql of [old, fresh]) await grow(sql, share);
  await analyzeAll(fresh);
  const freshSession = await fresh.reserve();
  for (let i = 0; i < 10; i += 1) await one(fresh, freshSession);

  const measured: [number, number][][] = STEPS.map(() => []);
  for (let round = 0; round < rounds; round += 1) {
    const times = { old: [] as number[][], fresh: [] as number[][] };
    for (let i = 0; i < 2 * USERS; i += 1) {
      times.old.push(await one(old, oldSession));
      times.fresh.push(await one(fresh, freshSession));
    }
    const medianOf = (all: number[][], step: number) => median(all.map((ms) => ms[step] ?? 0));
    STEPS.forEach((name, step) => {
      const [value, baseline] = [medianOf(times.old, step), medianOf(times.fresh, step)];
      measured[step]?.push([value, baseline]);
      say(`  ${name}: ${value.toFixed(2)} ms, fresh ${baseline.toFixed(2)} ms`);
    });
  }
  for (const session of [oldSession, freshSession]) session.release();
  return STEPS.map((name, step) =>
    resultOf(`${name}, stale plan`, "ms", measured[step] ?? [], { atMost: 1.25 }),
  );
}

/** Does it all with one new event, and says how many milliseconds each step took. */
async function one(sql: Sql, session: Sql): Promise<number[]> {
  published += 1;
  await sql`
    select webhook_publish_tx('email.received', ${`user_${1 + (published % USERS)}`}, '{"n": 1}')`;
  let webhookIds: string[] = [];
  const fanningOut = await timeOf(async () => {
    const [batch] = await session<[{ webhook_ids: string[] }]>`
      select webhook_ids from webhookpub.fan_out_batch(1)`;
    webhookIds = batch.webhook_ids;
  });
  let leases: Lease[] = [];
  const leasing = await timeOf(async () => {
    leases = await leaseDeliveries(session, webhookIds, [1]);
  });
  const [leased] = leases;
  if (!leased) throw new Error("nothing was leased");
  const answer = answerTo(
    leased,
    { kind: "responded", statusCode: 200, body: "", retryAfter: null },
    1,
  );
  return [fanningOut, leasing, await timeOf(() => recordAttempts(session, [answer]))];
}

let published = 0;

/** What others have left there: webhooks, events that have been fanned out, and deliveries. */
async function grow(sql: Sql, share: number): Promise<void> {
  await sql`
    insert into webhookpub.webhooks (id, user_id, url, events, retry_schedule)
    select 'wh_' || n, 'other_' || n / 10, 'https://example.com/', '{*}', '{}'
    from generate_series(1, ${100_000 * share}::int) as n`;
  await sql`
    insert into webhookpub.secrets (webhook_id, secret)
    select w.id, 'whsec_' from webhookpub.webhooks as w where w.user_id like 'other_%'`;
  const at = sql`now() - interval '1 day' + n * interval '1 millisecond'`;
  await sql`
    insert into webhookpub.events
      (id, user_id, type, status, matched_webhook_ids, processed_at, created_at, expires_at)
    select
      'evt_' || md5(n::text), 'other_' || n % 1000, 'email.sent', 'processed', '{}', ${at}, ${at},
      now() + interval '30 days'
    from generate_series(1, ${400_000 * share}::int) as n`;
  await sql`
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select e.id, e.created_at, e.user_id, '{}'
    from webhookpub.events as e
    where e.user_id like 'other_%'`;
  // A third of them to the webhooks of the load.
  await sql`
    insert into webhookpub.delivery_history
      (id, webhook_id, event_id, event_type, event_created_at, status, max_attempts,
       delivered_at, created_at)
    select
      webhookpub.delivery_id(${at}), i.ids[1 + n % cardinality(i.ids)], 'evt_' || md5(n::text),
      'email.sent', ${at}, s.status, 8, case when s.status = 'delivered' then ${at} end, ${at}
    from generate_series(1, ${500_000 * share}::int) as n
    join (
      select w.user_id like 'user_%' as own, array_agg(w.id) as ids
      from webhookpub.webhooks as w
      group by own
    ) as i on i.own = (n % 3 = 0)
    cross join lateral (
      select case when n % 10 = 0 then 'pending' else 'delivered' end
    ) as s (status)`;
  await sql`
    insert into webhookpub.queue (delivery_id, webhook_id, due_at)
    select h.id, h.webhook_id, now() + interval '1 hour'
    from webhookpub.delivery_history as h
    where h.status = 'pending'`;
}

async function analyzeAll(sql: Sql): Promise<void> {
  for (const table of TABLES) await sql`analyze webhookpub.${sql(table)}`;
}
