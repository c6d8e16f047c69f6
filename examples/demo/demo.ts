// `npm run demo`: the whole pipeline on an embedded PostgreSQL, with a worker that is
// killed under load. scenario.ts says who listens to what, checks.ts what must hold.
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import postgres from "postgres";
import { isPackage, root, runs } from "../../src/config.ts";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { messageOf } from "../../src/errors.ts";
import { migrate } from "../../src/migrate.ts";
import { type Delivery, type Facts, findProblems } from "./checks.ts";
import { type ReceiverProcess, startReceivers, startWorker } from "./processes.ts";
import { type Committed, type Published, publish } from "./publisher.ts";
import { lookAround } from "./look_around.ts";
import { makeScreen, resultTable } from "./report.ts";
import { REQUEST_TIMEOUT, subscriptions } from "./scenario.ts";

const STEADY_MESSAGES = 300;
const BURST_MESSAGES = 4000;
/** Ends a hopeless wait, and measures nothing: it is longer than any machine should need. */
const LIMIT_MS = 300_000;

const screen = makeScreen();
const stop = new AbortController();
const cleanUps: (() => Promise<unknown>)[] = [];
const published: Published = { committed: [], rolledBack: [] };
const begun = performance.now();

/** The story; resolves to the connection string of its database. */
async function demo(): Promise<string> {
  const cluster = await startTemporaryPostgres();
  cleanUps.push(() => cluster.remove());
  stop.signal.throwIfAborted();
  await migrate(cluster.url, () => {});
  const sql = postgres(cluster.url, { max: 8, connection: { application_name: "demo" } });
  cleanUps.push(() => sql.end({ timeout: 1 }));
  await sql.file(join(root, "examples/demo/schema.sql"));
  const [server] = await sql<[{ postgres: string; version: string }]>`
    select current_setting('server_version') as postgres, webhookpub.version()`;
  screen.say(`PostgreSQL ${server.postgres} is up, webhookpub ${server.version} installed.`);

  const receivers = await startReceivers();
  cleanUps.push(() => receivers.stop());
  const webhooks = await createWebhooks(sql, receivers);
  screen.say(`${webhooks.size} webhooks; their receivers are process ${receivers.pid}.`);

  const restart = await runWorker(cluster.url);
  const steady = await loadSteadily(sql);
  const inFlight = await loadAndKill(sql, restart);
  const facts = await gatherFacts(sql, receivers, webhooks, inFlight);
  conclude(facts, steady);
  screen.say(`\nThree queries for psql, and what they say now:\n\n${await lookAround(sql)}`);
  return cluster.url;
}

/** A load without faults; resolves to its messages, by which latency is measured. */
async function loadSteadily(sql: postgres.Sql): Promise<Committed[]> {
  screen.say(`Steady load: ${STEADY_MESSAGES} messages, one a transaction, on 4 connections.`);
  const load = { connections: 4, batch: 1, rollBackEvery: 0, pauseMs: 35 };
  await publish(sql, { ...load, messages: STEADY_MESSAGES }, published, stop.signal);
  await settle(sql);
  return [...published.committed];
}

/** A load in whose middle the worker is killed; resolves to what was in flight then. */
async function loadAndKill(
  sql: postgres.Sql,
  restart: (sql: postgres.Sql) => Promise<number>,
): Promise<number> {
  screen.say(`Burst: ${BURST_MESSAGES} messages as fast as 4 connections can; some roll back.`);
  const load = { connections: 4, batch: 10, rollBackEvery: 12, pauseMs: 0 };
  const half = published.committed.length + BURST_MESSAGES / 2;
  const kill = async () => {
    await until(
      async () => published.committed.length > half && (await leased(sql)).inFlight > 0,
      "requests in flight",
    );
    return restart(sql);
  };
  const [inFlight] = await Promise.all([
    kill(),
    publish(sql, { ...load, messages: BURST_MESSAGES }, published, stop.signal),
  ]);
  await settle(sql);
  return inFlight;
}

/** Shows the results; throws if something does not hold. */
function conclude(facts: Facts, steady: readonly Committed[]): void {
  const { committed, rolledBack } = facts.published;
  screen.say(`
${figure(committed.length)} events committed, ${figure(rolledBack.length)} rolled back, ${figure(facts.receipts.length)} requests received in ${seconds()} s.

${resultTable(facts, steady)}

p50 and p95: from commit to the first request, of the ${steady.length} events of the steady load, before the
burst and the kill. Duplicates: requests beyond those that a receiver's answers called for.`);
  const problems = findProblems(facts);
  if (problems.length > 0) {
    const more = problems.length > 10 ? `\n  … and ${problems.length - 10} more` : "";
    throw new Error(`this does not hold:\n  ${problems.slice(0, 10).join("\n  ")}${more}`);
  }
  screen.say(`
Checked: every committed event reached each matching webhook, or failed after its schedule
and was told of; every signature was valid; nothing that was rolled back was sent; nothing
went to another tenant; there were no more duplicates than the ${facts.unanswered} requests whose answers
no worker recorded, because it was killed.`);
}

/** Makes the webhooks; resolves to their names by id. */
async function createWebhooks(
  sql: postgres.Sql,
  receivers: ReceiverProcess,
): Promise<Map<string, string>> {
  // The receivers are on this machine, and webhooks may not go there by default.
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.1}'`;
  const created = await Promise.all(
    subscriptions.map(async (subscription) => {
      const [webhook] = await sql<[{ webhook_id: string; signing_secret: string }]>`
        select * from webhookpub.create_webhook(
          p_user_id => ${subscription.tenant},
          p_url => ${receivers.url(subscription.name)},
          p_events => ${subscription.events},
          p_filters => ${sql.json(subscription.filters)},
          p_max_in_flight => ${subscription.maxInFlight},
          p_retry_schedule => ${subscription.retrySchedule}::text[]::interval[],
          p_request_timeout => ${REQUEST_TIMEOUT}::text::interval
        )`;
      return { name: subscription.name, ...webhook };
    }),
  );
  receivers.trust(created.map(({ name, signing_secret }) => [name, signing_secret]));
  return new Map(created.map(({ name, webhook_id }) => [webhook_id, name]));
}

/**
 * Starts a worker. What is returned kills it, starts another and resolves to the number
 * of requests that were in flight at the kill.
 */
async function runWorker(url: string): Promise<(sql: postgres.Sql) => Promise<number>> {
  const start = async () => {
    const worker = startWorker(url, (why) => stop.abort(new Error(why)));
    cleanUps.push(() => worker.stop());
    await until(() => worker.isReady(), "the worker to start");
    return worker;
  };
  const first = await start();
  screen.say(`Worker ${first.pid} runs: npx graphile-worker.`);
  return async (sql) => {
    await first.kill();
    // What it had sent to the database may still be under way there.
    const connections = async () => {
      const others = await sql`
        select from pg_stat_activity
        where backend_type = 'client backend' and application_name <> 'demo'`;
      return others.count;
    };
    await until(async () => (await connections()) === 0, "the killed worker's connections to end");
    const { inFlight, longest } = await leased(sql);
    screen.say(`Killed worker ${first.pid} with SIGKILL while it held ${inFlight} deliveries.`);
    const second = await start();
    screen.say(
      `Worker ${second.pid} runs instead; the leases of the first end within ${longest} s.`,
    );
    return inFlight;
  };
}

/** What workers hold now, and in how many seconds the last of these leases ends. */
async function leased(sql: postgres.Sql): Promise<{ inFlight: number; longest: number }> {
  const [row] = await sql<[{ inFlight: number; longest: number }]>`
    select
      count(*)::integer as "inFlight",
      ceil(extract(epoch from max(next_attempt_at) - clock_timestamp()))::integer as longest
    from webhookpub.deliveries
    where leased`;
  return row;
}

/** Waits until nothing is pending, and shows how far it is. */
async function settle(sql: postgres.Sql): Promise<void> {
  const settled = async () => {
    const [now] = await sql<[Record<"events" | "pending" | "delivered" | "failed", number>]>`
      select
        (select count(*)::integer from webhookpub.events where status = 'pending') as events,
        count(*) filter (where status = 'pending')::integer as pending,
        count(*) filter (where status = 'delivered')::integer as delivered,
        count(*) filter (where status = 'failed')::integer as failed
      from webhookpub.deliveries`;
    const events = figure(published.committed.length);
    const deliveries = [
      `${figure(now.delivered)} delivered`,
      `${figure(now.failed)} failed`,
      `${figure(now.pending)} pending`,
    ];
    screen.progress(`${seconds()} s: ${events} events; deliveries: ${deliveries.join(", ")}`);
    return now.events === 0 && now.pending === 0;
  };
  await until(settled, "every delivery to end", { pollMs: 200 });
}

async function gatherFacts(
  sql: postgres.Sql,
  receivers: ReceiverProcess,
  webhooks: ReadonlyMap<string, string>,
  inFlight: number,
): Promise<Facts> {
  const rows = await sql<(Delivery & { webhook_id: string })[]>`
    select id, webhook_id, event_id, status, attempts, lost from webhookpub.deliveries`;
  const unheard = await sql`select from webhookpub.attempts where outcome <> 'responded'`;
  return {
    published,
    receipts: await receivers.receipts(),
    deliveries: rows.map((row) => ({ ...row, webhook: webhooks.get(row.webhook_id) ?? "" })),
    unanswered: inFlight + unheard.count,
  };
}

/** Waits for a condition; ends early when the demo is stopped, with the reason. */
async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  { limitMs = LIMIT_MS, pollMs = 20 } = {},
): Promise<void> {
  const since = performance.now();
  while (!(await condition())) {
    stop.signal.throwIfAborted();
    if (performance.now() - since > limitMs) throw new Error(`waited in vain for ${what}`);
    await sleep(pollMs);
  }
}

function seconds(): number {
  return Math.round((performance.now() - begun) / 1000);
}

function figure(count: number): string {
  return count.toLocaleString("en");
}

/**
 * Runs the demo; resolves to the exit code.
 *
 * @param keep afterwards keep PostgreSQL and the worker up until Ctrl-C
 */
export async function runDemo({ keep }: { keep: boolean }): Promise<number> {
  let interrupted = false;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      interrupted = true;
      stop.abort(new Error(signal));
    });
  }
  try {
    const url = await demo();
    if (keep) {
      screen.say(`\nPostgreSQL and the worker stay up until Ctrl-C: psql ${url}`);
      await until(() => interrupted, "Ctrl-C", { limitMs: Infinity });
    } else {
      screen.say(`\nTo go on in psql: ${runs("demo")}${isPackage ? "" : " --"} --keep`);
    }
    return 0;
  } catch (error) {
    screen.say(interrupted ? "\nStopped." : `\nThe demo failed: ${messageOf(error)}`);
    return interrupted ? 130 : 1;
  } finally {
    for (const cleanUp of cleanUps.toReversed()) await cleanUp();
  }
}
