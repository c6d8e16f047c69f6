import { setTimeout as sleep } from "node:timers/promises";
import { connect, type Sql } from "../src/database/connect.ts";
import { settled } from "./cost.ts";
import {
  type Bench,
  median,
  type Options,
  quantile,
  type Result,
  resultOf,
  unsteady,
} from "./support/bench.ts";
import { perEach, spent } from "./support/processor.ts";
import { startScript, startSystem, type System } from "./support/system.ts";

const USERS = 100;
const RATES = [1, 10, 50, 100, 500] as const;
/** Webhooks that each event goes to. */
const MATCHES = [1, 3] as const;
/** Publishers at full speed, and at a pace. */
const MANY = 32;
const FEW = 4;
const TEXT = "x".repeat(300);

/** What is to be reached at full speed, at 50 events/s to three webhooks, and at rest. */
const GOAL = {
  perSecond: 7000,
  postgres: 90,
  worker: 80,
  percentiles: [3, 5, 8],
  share: { "0 × 1": 0.5, "1 × 1": 2, "10 × 1": 6, "50 × 3": 15, "100 × 1": 27 },
};

/** What was measured at one pace. */
interface Figures {
  /** Deliveries a second, from the first publish to the last answer. */
  readonly perSecond: number;
  /** From commit to receipt, in milliseconds: at 50, 95 and 99 %. */
  readonly percentiles: readonly [number, number, number];
  /** Processor time for each delivery, in microseconds. */
  readonly postgres: number;
  readonly worker: number;
  /** That of both, of PostgreSQL and of the worker, in percent of a core. */
  readonly share: readonly [number, number, number];
}

/** By pace: events a second and webhooks that each goes to. */
type Round = Readonly<Record<string, Figures>>;

/**
 * Publishing and delivering at once: by 32 publishers as fast as they can, and at paces from nothing
 * to 500 events/s. Processor time is that of PostgreSQL, publishing included, and of the worker.
 */
export const live: Bench = async (options) => {
  const own: Round[] = [];
  for (let round = 0; round < options.rounds; round += 1) {
    own.push(await measure(options, "this"));
    if (options.against) await measure(options, "against", options.against);
  }
  const against = (
    what: string,
    unit: string,
    of: (round: Round) => number | undefined,
    goal: number,
    bound: "atLeast" | "atMost" = "atMost",
  ): Result =>
    unsteady(
      resultOf(
        `live ${what}`,
        unit,
        own.map((round) => [of(round) ?? Number.NaN, goal]),
        bound === "atMost" ? { atMost: 1 } : { atLeast: 1 },
      ),
    );
  const full = "full speed";
  return [
    against(
      `${full}, deliveries`,
      "per second",
      (r) => r[full]?.perSecond,
      GOAL.perSecond,
      "atLeast",
    ),
    against(`${full}, PostgreSQL, a delivery`, "µs", (r) => r[full]?.postgres, GOAL.postgres),
    against(`${full}, worker, a delivery`, "µs", (r) => r[full]?.worker, GOAL.worker),
    ...["median", "p95", "p99"].map((name, i) =>
      against(
        `50 × 3, commit to receipt, ${name}`,
        "ms",
        (r) => r["50 × 3"]?.percentiles[i],
        GOAL.percentiles[i] ?? 0,
      ),
    ),
    ...Object.entries(GOAL.share).map(([pace, goal]) =>
      against(`${pace}, processor`, "% of a core", (r) => r[pace]?.share[0], goal),
    ),
  ];
};

async function measure({ small, say }: Options, name: string, from?: string): Promise<Round> {
  const system = await startSystem({ from });
  const receiver = await startScript("receiver.ts");
  const url = `http://127.0.0.1:${receiver.firstLine}/`;
  const publishers = connect(system.url, { max: MANY, max_lifetime: null });
  const seconds = small ? 2 : 15;
  let stop = async () => {};
  const round: Record<string, Figures> = {};
  try {
    for (const matches of MATCHES) {
      await system.sql`
        select webhookpub.create_webhook(${`of_${matches}_`} || u, ${url}, '{email.*}')
        from generate_series(1, ${USERS}::int) as u, generate_series(1, ${matches}::int)`;
    }
    const worker = await system.startWorker();
    stop = worker;
    const load = { system, publishers, url, pid: worker.pid };
    const tell = (pace: string, figures: Figures) => {
      round[pace] = figures;
      say(`  ${name}, ${lineOf(pace, figures)}`);
    };
    // For connections that are open, and warm plans, caches and code.
    await Promise.all(Array.from({ length: MANY }, () => publishers`select pg_sleep(0.1)`));
    await paced(load, { count: small ? 200 : 1000, perSecond: 0, matches: 3, width: MANY });
    tell("0 × 1", await atRest(load, seconds));
    for (const perSecond of RATES) {
      for (const matches of MATCHES) {
        const count = perSecond * seconds;
        const pace = { count, perSecond, matches, width: FEW };
        tell(`${perSecond} × ${matches}`, await paced(load, pace));
      }
    }
    const flood = { count: small ? 500 : 5000, perSecond: 0, matches: 3, width: MANY };
    tell("full speed", await paced(load, flood));
    return round;
  } finally {
    await stop();
    receiver.end();
    await publishers.end({ timeout: 1 });
    await system.remove();
  }
}

function lineOf(
  pace: string,
  { perSecond, percentiles, postgres, worker, share }: Figures,
): string {
  const [both, ofPostgres, ofWorker] = share.map((one) => one.toFixed(1));
  const processor = `${both} % of a core (PostgreSQL ${ofPostgres}, worker ${ofWorker})`;
  if (perSecond === 0) return `at rest: ${processor}`;
  return (
    `${pace}: ${perSecond.toFixed(0)} deliveries/s, ` +
    `${percentiles.map((ms) => ms.toFixed(1)).join("/")} ms (50/95/99 %), ` +
    `PostgreSQL ${postgres.toFixed(0)} µs, worker ${worker.toFixed(0)} µs a delivery, ${processor}`
  );
}

interface Load {
  readonly system: System;
  readonly publishers: Sql;
  /** The receiver's. */
  readonly url: string;
  /** The worker's process. */
  readonly pid: number;
}

async function atRest({ system, pid }: Load, seconds: number): Promise<Figures> {
  // What a burst leaves behind is not rest.
  await sleep(3000);
  const begun = await spent(system.sql, pid);
  const since = performance.now();
  await sleep(seconds * 1000);
  const each = perEach(begun, await spent(system.sql, pid), performance.now() - since);
  const nothing = Number.NaN;
  return {
    perSecond: 0,
    percentiles: [nothing, nothing, nothing],
    postgres: nothing,
    worker: nothing,
    share: sharesOf(each),
  };
}

interface Pace {
  readonly count: number;
  /** Events; 0: as many as there can be. */
  readonly perSecond: number;
  readonly matches: number;
  /** Publishers. */
  readonly width: number;
}

/** Publishes to users in turn; when each event was committed. */
async function publish(
  sql: Sql,
  { count, perSecond, matches, width }: Pace,
): Promise<Map<string, number>> {
  const committed = new Map<string, number>();
  const begun = performance.now();
  let next = 0;
  const publisher = async () => {
    for (let n = next++; n < count; n = next++) {
      const wait = perSecond > 0 ? begun + (n * 1000) / perSecond - performance.now() : 0;
      if (wait > 0) await sleep(wait);
      const [row] = await sql<[{ id: string }]>`
        select webhook_publish_tx('email.received', ${`of_${matches}_${1 + (n % USERS)}`},
          jsonb_build_object('subject', 'A subject', 'text', ${TEXT}::text, 'n', ${n}::int)) as id`;
      committed.set(row.id, performance.timeOrigin + performance.now());
    }
  };
  await Promise.all(Array.from({ length: width }, publisher));
  return committed;
}

/** Publishes, and waits for all deliveries. */
async function paced({ system, publishers, url, pid }: Load, pace: Pace): Promise<Figures> {
  const { sql } = system;
  const deliveries = pace.count * pace.matches;
  await fetch(`${url}stats?reset`);
  const begun = await spent(sql, pid);
  const since = performance.now();
  const committed = await publish(publishers, pace);
  await settled(system);
  const ended = await spent(sql, pid);
  const each = perEach(begun, ended, deliveries);
  const shares = sharesOf(perEach(begun, ended, performance.now() - since));
  const stats = (await (await fetch(`${url}stats?reset`)).json()) as {
    deliveries: number;
    duplicates: number;
    receipts: [string, number][];
  };
  if (stats.deliveries !== deliveries || stats.duplicates > 0) {
    throw new Error(`received ${stats.deliveries} of ${deliveries}, ${stats.duplicates} twice`);
  }
  const took = stats.receipts.map(([id, at]) => Math.max(0, at - (committed.get(id) ?? at)));
  const [row] = await sql<[{ seconds: number }]>`
    select extract(epoch from max(d.delivered_at) - min(e.created_at))::float8 as seconds
    from webhookpub.deliveries as d
    join webhookpub.events as e on e.id = d.event_id
    where e.id = any (${[...committed.keys()]}::text[])`;
  return {
    perSecond: deliveries / row.seconds,
    percentiles: [median(took), quantile(took, 0.95), quantile(took, 0.99)],
    postgres: each.postgres,
    worker: each.worker,
    share: shares,
  };
}

/** Of microseconds for each millisecond. */
function sharesOf(each: { postgres: number; worker: number }): Figures["share"] {
  return [(each.postgres + each.worker) / 10, each.postgres / 10, each.worker / 10];
}
