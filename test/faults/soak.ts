// `npm run test:soak`: a mixed load and random faults for as long as you like, and then the law
// of conservation.
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { messageOf } from "../../src/errors.ts";
import { makePool } from "../../src/database/pool.ts";
import { stoppableDatabase } from "../support/database.ts";
import { randomFrom } from "../support/random.ts";
import type { Scope } from "../support/scope.ts";
import { type Supervised, supervise } from "../support/supervise.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { judge } from "./conservation.ts";
import { makeWorld, secondsSince } from "./world.ts";

const USAGE = `npm run test:soak [-- --minutes N] [--seed S]

Workers are killed, stopped and told to end, PostgreSQL is restarted, connections and jobs are
taken away, while events are published to webhooks that answer, fail, hang and come and go.
Afterwards what was committed is held against what receivers logged.

--minutes  how long (1)
--seed     repeats the choices of another run, which printed its seed
--help     shows this`;

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    seed: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

const begun = performance.now();
const say = (line: string) =>
  console.log(`${secondsSince(begun).toFixed(1).padStart(6)} s  ${line}`);
const cleanUps: (() => unknown)[] = [];
const scope: Scope = { teardown: (handler) => void cleanUps.push(handler) };
const random = values.seed === undefined ? randomFrom() : randomFrom(Number(values.seed));

/** Runs until the time is over; resolves to whether the law held. */
async function soak(): Promise<boolean> {
  const until = performance.now() + Number(values.minutes) * 60_000;
  const database = await stoppableDatabase(scope);
  const world = await makeWorld(scope, database);
  const { receivers } = world;
  const pool = makePool(world.url, { max: 2, statementMs: 60_000 });
  scope.teardown(() => pool.close());
  const run = (statement: string) => pool.ask((sql) => sql.unsafe(statement));
  /** What is asked here may meet a fault, as may what applications ask. */
  const attempt = async (what: PromiseLike<unknown>) => {
    await Promise.resolve(what).catch(() => {});
  };

  const shared = { requestTimeout: "2 s", maxInFlight: 10, retrySchedule: "{1 s,1 s,2 s,2 s}" };
  const ofUser = (userId: string) => ({ ...shared, userId });
  await world.webhook("fine", ofUser("user_1"));
  await world.webhook("fails_once", ofUser("user_1"));
  await world.webhook("in_order", {
    ...ofUser("user_1"),
    ordered: true,
    retrySchedule: "{50 ms,1 s,2 s,2 s}",
  });
  await world.webhook("told", { ...ofUser("user_1"), events: "{webhook.*}" });
  await world.webhook("slow", { ...ofUser("user_2"), events: "{email.sent}" });
  await world.webhook("hangs", { ...ofUser("user_2"), events: "{email.approved}", maxInFlight: 3 });
  await world.webhook("everything", { ...ofUser("user_2"), events: "{*}" });
  const rotated = await world.webhook("rotated", ofUser("user_3"));
  const failing = { ...ofUser("user_3"), events: "{email.sent}", retrySchedule: "{500 ms}" };
  await world.webhook("fails", failing);
  const interrupted = { ...ofUser("user_3"), interrupted: true };
  const toggled = await world.webhook("toggled", interrupted);
  const gone = await world.webhook("gone", { ...interrupted, events: "{email.approved}" });
  const deleted = await world.webhook("deleted", { ...interrupted, events: "{email.sent}" });
  await receivers.behave({
    fails_once: { answers: [500, 200] },
    in_order: { answers: [500, 200] },
    slow: { answers: [200], delayMs: 300 },
    hangs: "hold",
    fails: { answers: [500] },
  });
  const mostInFlight = 11 * shared.maxInFlight + 3;

  const start = () => supervise(scope, () => startWorkerProcess(scope, world.url));
  const workers = [await start(), await start(), await start()];
  const load = world.load({
    connections: 4,
    pauseMs: 150,
    userIds: ["user_1", "user_2", "user_3"],
  });

  const { cluster } = database;
  const signal = (name: NodeJS.Signals) => (worker: Supervised) => worker.kill(name);
  const restart = async (mode: "fast" | "immediate") => {
    await cluster.stop(mode);
    await sleep(random.below(3000));
    await cluster.start();
  };
  const faults: Record<string, () => unknown> = {
    "SIGKILL of a worker": () => signal("SIGKILL")(random.pick(workers)),
    "SIGKILL of all workers": () => workers.forEach(signal("SIGKILL")),
    "SIGTERM of a worker": () => signal("SIGTERM")(random.pick(workers)),
    "SIGSTOP of a worker, for a time": () => {
      const worker = random.pick(workers);
      worker.kill("SIGSTOP");
      setTimeout(() => worker.kill("SIGCONT"), 1000 + random.below(24_000));
    },
    "PostgreSQL restarted, -m fast": () => restart("fast"),
    "PostgreSQL restarted, -m immediate": () => restart("immediate"),
    "all connections terminated": () =>
      run(`
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()`),
    "every third connection terminated": () =>
      run(`
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and pid % 3 = 0`),
    "all jobs deleted": () => run(`delete from graphile_worker._private_jobs`),
  };
  const steps: (() => PromiseLike<unknown>)[] = [
    () => run(`select webhookpub.disable_webhook('${toggled.id}')`),
    () => run(`select webhookpub.enable_webhook('${toggled.id}')`),
    () => world.rotate(rotated),
    () =>
      run(`
        select r.*
        from (select id from webhookpub.events where status = 'processed' limit 50) as e
        cross join lateral webhookpub.redeliver(e.id) as r`),
    () => receivers.behave({ gone: { answers: [random.pick([200, 200, 410])] } }),
    () => run(`select webhookpub.enable_webhook('${gone.id}')`),
  ];

  let count = 0;
  let faultDue = performance.now() + 3000;
  const half = (performance.now() + until) / 2;
  let isDeleted = false;
  while (performance.now() < until) {
    await sleep(500 + random.below(500));
    await attempt(random.pick(steps)());
    if (!isDeleted && performance.now() > half) {
      const deleting = run(`select webhookpub.delete_webhook('${deleted.id}')`);
      await attempt(deleting.then(() => (isDeleted = true)));
    }
    if (performance.now() < faultDue) continue;
    const [name, fault] = random.pick(Object.entries(faults));
    say(name);
    count += 1;
    await attempt((async () => await fault())());
    faultDue = performance.now() + 2000 + random.below(6000);
  }

  say("no more faults; everything answers");
  await load.stop();
  workers.forEach(signal("SIGCONT"));
  await receivers.behave(
    Object.fromEntries(
      ["fails_once", "slow", "hangs", "fails", "gone"].map((name) => [name, { answers: [200] }]),
    ),
  );
  // Enables what is disabled, and closes circuits.
  const enable = () =>
    run(`
      select webhookpub.enable_webhook(w.id) from webhookpub.webhooks as w
      where w.deleted_at is null`);
  await enable().catch(enable);
  // What was under way until now may still open a circuit, whose pauses take minutes.
  const enabling = setInterval(() => void attempt(enable()), 5000);
  scope.teardown(() => clearInterval(enabling));
  const settling = performance.now();
  try {
    await world.settled();
  } catch (error) {
    for (const worker of workers) say(`a worker's last words:\n${worker.output().slice(-2000)}`);
    throw error;
  }
  const seconds = secondsSince(settling);

  const [{ lost }] = await pool.ask(
    (sql) => sql<[{ lost: number }]>`
      select sum(d.lost)::integer as lost from webhookpub.deliveries as d`,
  );
  const { figures, problems } = judge(await world.facts(), lost);
  say(JSON.stringify(figures));
  say(`settled ${seconds.toFixed(1)} s after the last of ${count} faults`);
  say(
    `${lost} requests were lost with their workers, of ${count * mostInFlight} that could have been`,
  );
  for (const problem of problems.slice(0, 20)) say(`DOES NOT HOLD: ${problem}`);
  if (lost > count * mostInFlight) say("DOES NOT HOLD: more was lost than was in flight");
  return problems.length === 0 && lost <= count * mostInFlight;
}

if (values.help) {
  console.log(USAGE);
  process.exit(0);
}
say(`${values.minutes} minutes, --seed ${random.seed}`);
for (const name of ["SIGINT", "SIGTERM"] as const) {
  process.on(name, () => void end(130));
}
await end(
  (await soak().catch((error: unknown) => say(`FAILED: ${messageOf(error)}`))) === true ? 0 : 1,
);

/** Ends what was started, last in, first out. */
async function end(code: number): Promise<never> {
  say(code === 0 ? "all is as it should be" : `seed ${random.seed} failed`);
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
  process.exit(code);
}
