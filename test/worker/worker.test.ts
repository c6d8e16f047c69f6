import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { emptyDatabase, testDatabase } from "../support/database.ts";
import { startOrEnd, startProcess } from "../support/process.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { supervise } from "../support/supervise.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

// Most of these tests wait for processes and for leases to end, not for the processor.
t.jobs = 3;

/** Waits until so many deliveries are delivered. */
async function delivered(sql: Sql, count: number): Promise<void> {
  await until(
    async () =>
      (await sql`select from webhookpub.deliveries where status = 'delivered'`).count >= count,
    `${count} delivered`,
  );
}

/** How the deliveries stand, and the attempts that count: how many of each state. */
async function states(sql: Sql) {
  return [
    ...(await sql`
      select status, leased, attempts - lost as attempts, count(*)::integer as n
      from webhookpub.deliveries group by 1, 2, 3 order by 1, 2, 3`),
  ];
}

/** How many jobs some worker has taken and not given back. */
async function lockedJobs(sql: Sql): Promise<number> {
  return (await sql`select from graphile_worker.jobs where locked_at is not null`).count;
}

/** Waits until no fan-out is awake. */
async function asleep(sql: Sql): Promise<void> {
  await until(async () => {
    const [row] = await sql<[{ asleep: boolean }]>`
      select webhookpub.fan_out_is_asleep() as asleep`;
    return row.asleep;
  }, "the fan-out to fall asleep");
}

/** A receiver that answers nothing until it is told to. */
async function gatedReceiver(t: Test) {
  const receiver = await startReceiver(t);
  const gate = Promise.withResolvers<void>();
  receiver.reply = () => gate.promise.then(() => 200);
  return { receiver, open: () => gate.resolve() };
}

void t.test("a worker killed with requests in flight loses nothing", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  receiver.reply = () => "hang";
  const worker = await startWorkerProcess(t, url);
  await createWebhook(sql, { url: receiver.url(), maxInFlight: 10, requestTimeout: "30 s" });
  await publish(sql, { count: 30 });
  await receiver.received(10);
  worker.kill("SIGKILL");
  await worker.ended();
  const [{ killed }] = await sql<[{ killed: string }]>`select clock_timestamp() as killed`;
  // As if their deadline had been 1 s: this test would take too long with one of 30 s.
  await sql`
    update webhookpub.queue set due_at = due_at - interval '29 seconds'
    where leased`;
  t.match(await states(sql), [
    { status: "pending", leased: false, attempts: 0, n: 20 },
    { status: "pending", leased: true, attempts: 1, n: 10 },
  ]);

  receiver.reply = () => 200;
  await startWorkerProcess(t, url);
  await delivered(sql, 30);
  t.equal(receiver.requests.length, 40, "one extra request for each that was in flight");
  const ids = receiver.requests.map(({ headers }) => String(headers["webhook-delivery-id"]));
  const inFlight = new Set(ids.slice(0, 10));
  t.equal(new Set(ids).size, 30);
  t.ok(
    ids.slice(10).every((id, i, again) => again.indexOf(id) === i),
    "none a third time",
  );
  t.equal(ids.slice(10).filter((id) => inFlight.has(id)).length, 10);
  const [attempts] = await sql`
    select count(*)::integer as all,
      count(*) filter (where status_code = 200)::integer as delivered,
      max(started_at) < ${killed}::timestamptz + interval '60 seconds' as within_60_s,
      (select sum(lost)::integer from webhookpub.deliveries) as lost
    from webhookpub.attempts`;
  t.strictSame(attempts, { all: 30, delivered: 30, within_60_s: true, lost: 10 });
});

void t.test("a worker told to stop waits for its requests, even for seconds", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  receiver.reply = () => "hang";
  const worker = await startWorkerProcess(t, url);
  // Longer than graphile-worker itself would wait.
  await createWebhook(sql, { url: receiver.url(), maxInFlight: 2, requestTimeout: "7 s" });
  await publish(sql, { count: 5 });
  await receiver.received(2);
  worker.kill("SIGTERM");
  t.equal(await worker.ended(), "SIGTERM");

  t.strictSame(await states(sql), [
    { status: "pending", leased: false, attempts: 0, n: 3 },
    { status: "pending", leased: false, attempts: 1, n: 2 },
  ]);
  const attempts = await sql`select outcome from webhookpub.attempts`;
  t.strictSame([...attempts], [{ outcome: "timed_out" }, { outcome: "timed_out" }]);
  t.equal(await lockedJobs(sql), 0);
});

void t.test("a worker told to stop finishes what it has and takes nothing new", async (t) => {
  const { url, sql } = await testDatabase(t);
  const { receiver, open } = await gatedReceiver(t);
  const worker = await startWorkerProcess(t, url);
  await createWebhook(sql, { url: receiver.url(), maxInFlight: 3, requestTimeout: "30 s" });
  await createWebhook(sql, { url: receiver.url(), maxInFlight: 3, requestTimeout: "30 s" });
  await publish(sql, { count: 10 });
  await receiver.received(6);
  worker.kill("SIGTERM");
  await until(() => worker.output().includes("worker draining"), "the worker to heed it");
  open();
  t.equal(await worker.ended(), "SIGTERM");

  t.equal(receiver.requests.length, 6, "what was in flight, and nothing more");
  t.strictSame(await states(sql), [
    { status: "delivered", leased: false, attempts: 1, n: 6 },
    { status: "pending", leased: false, attempts: 0, n: 14 },
  ]);
  t.equal((await sql`select from webhookpub.attempts`).count, 6);
  t.equal(await lockedJobs(sql), 0);

  await startWorkerProcess(t, url);
  await delivered(sql, 20);
  t.equal(receiver.requests.length, 20, "the next one goes on from there");
});

void t.test("a worker told to stop again does not wait for its requests", async (t) => {
  const { url, sql } = await testDatabase(t);
  const { receiver } = await gatedReceiver(t);
  const worker = await startWorkerProcess(t, url);
  await createWebhook(sql, { url: receiver.url(), requestTimeout: "30 s" });
  await publish(sql, { count: 2 });
  await receiver.received(2);
  worker.kill("SIGTERM");
  await until(() => worker.output().includes("worker draining"), "the worker to heed it");
  // Not before five seconds have gone by.
  const again = setInterval(() => worker.kill("SIGTERM"), 500);
  t.teardown(() => clearInterval(again));
  await worker.ended();
  t.strictSame(await states(sql), [{ status: "pending", leased: true, attempts: 1, n: 2 }]);
});

/** A worker that has begun all it may, ten requests of 150, and holds more jobs than it can begin. */
async function fullWorker(t: Test) {
  const { url, sql } = await testDatabase(t);
  const { receiver, open } = await gatedReceiver(t);
  // Of one user alone it would keep room for others.
  for (let i = 0; i < 150; i += 1) {
    const userId = `user_${i}`;
    await createWebhook(sql, { userId, url: receiver.url(), requestTimeout: "30 s" });
    await publish(sql, { userId });
  }
  await fanOutAll(sql);
  const worker = await startWorkerProcess(t, url, { env: { WEBHOOKPUB_MAX_IN_FLIGHT: "10" } });
  await receiver.received(10);
  // It runs fifty at once: the others wait inside it, for one of these to end.
  await until(async () => (await lockedJobs(sql)) > 50, "more jobs than it can begin");
  return {
    url,
    sql,
    receiver,
    worker,
    /** Tells it to stop, and lets it have its answers later than if it did not wait for them. */
    async stop() {
      worker.kill("SIGTERM");
      await until(() => worker.output().includes("worker draining"), "the worker to heed it");
      await sleep(2000);
      open();
      return await worker.ended();
    },
  };
}

/** What a worker that was full leaves, if it has finished its requests. */
const FINISHED = [
  { status: "delivered", leased: false, attempts: 1, n: 10 },
  { status: "pending", leased: false, attempts: 0, n: 140 },
];

void t.test("a worker told to stop with more jobs than it can begin gives them back", async (t) => {
  const { url, sql, receiver, worker, stop } = await fullWorker(t);
  t.equal(await stop(), "SIGTERM");
  t.notMatch(worker.output(), /error|fail/i);
  t.strictSame(await states(sql), FINISHED);
  t.equal(receiver.requests.length, 10, "what was in flight, and nothing more");
  t.equal(await lockedJobs(sql), 0);

  await startWorkerProcess(t, url);
  await delivered(sql, 150);
  t.equal(receiver.requests.length, 150, "the next one goes on from there");
});

void t.test(
  "a worker that can't give its jobs back finishes its requests all the same",
  async (t) => {
    const { sql, receiver, worker, stop } = await fullWorker(t);
    await sql`
      create function not_now() returns trigger language plpgsql as
      $$ begin raise 'not now'; end $$`;
    await sql`
      create trigger not_now before update on graphile_worker._private_jobs
      for each row when (new.locked_by is null) execute function not_now()`;
    t.equal(await stop(), "SIGTERM");
    t.match(worker.output(), "not now");
    t.strictSame(await states(sql), FINISHED);
    t.equal(receiver.requests.length, 10);
  },
);

void t.test(
  "without a worker publishing goes on; the backlog drains when one starts",
  async (t) => {
    const { url, sql } = await testDatabase(t);
    const receiver = await startReceiver(t);
    await createWebhook(sql, { url: receiver.url() });
    await publish(sql, { count: 1200 });
    await startWorkerProcess(t, url);
    await delivered(sql, 1200);
    t.equal(receiver.requests.length, 1200);
    t.ok(receiver.peak() <= 20);
  },
);

void t.test("leases that come when a worker has been told to stop go back at once", async (t) => {
  const { url, sql, session } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createWebhook(sql, { url: receiver.url() });
  await publish(sql, { count: 3 });
  await sql`select webhookpub.fan_out()`;
  const gate = session();
  await gate`select pg_advisory_lock(1)`;
  const [lease] = await sql<[{ definition: string }]>`
    select pg_get_functiondef(oid) as definition from pg_proc
    where oid = to_regproc('webhookpub.lease_deliveries')`;
  await sql.unsafe(
    lease.definition.replace(/^begin$/m, "begin\n  perform pg_advisory_xact_lock_shared(1);"),
  );
  const worker = await startWorkerProcess(t, url);
  await until(
    async () =>
      (
        await sql`
          select from pg_stat_activity
          where datname = current_database() and wait_event = 'advisory'`
      ).count > 0,
    "it to ask for leases",
  );
  worker.kill("SIGTERM");
  await until(() => worker.output().includes("worker draining"), "the worker to heed it");
  await gate`select pg_advisory_unlock(1)`;
  t.equal(await worker.ended(), "SIGTERM");

  t.strictSame(receiver.requests, []);
  t.strictSame(await states(sql), [{ status: "pending", leased: false, attempts: 0, n: 3 }]);
  const [queued] = await sql`
    select count(*)::integer as n from webhookpub.queue where due_at <= now() and lost = 1`;
  t.strictSame(queued, { n: 3 }, "leased they were, and are due");
});

void t.test("a late answer from a worker thought dead changes nothing newer", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const gate = Promise.withResolvers<void>();
  receiver.reply = (_request, n) => (n === 1 ? gate.promise.then(() => 500) : 200);
  const stopped = await startWorkerProcess(t, url);
  await createWebhook(sql, { url: receiver.url(), requestTimeout: "30 s" });
  await publish(sql);
  await receiver.received(1);
  stopped.kill("SIGSTOP");
  await sql`update webhookpub.queue set due_at = now()`;
  await startWorkerProcess(t, url);
  await delivered(sql, 1);
  const [before] = await sql`select d.* from webhookpub.deliveries as d`;

  gate.resolve();
  stopped.kill("SIGCONT");
  await until(
    async () => (await sql`select from webhookpub.attempts`).count === 2,
    "the late answer",
  );
  const [after] = await sql`select d.* from webhookpub.deliveries as d`;
  t.strictSame(after, before);
  const attempts = await sql`select attempt, status_code from webhookpub.attempts order by 1`;
  t.strictSame(
    [...attempts],
    [
      { attempt: 1, status_code: 500 },
      { attempt: 2, status_code: 200 },
    ],
  );
});

void t.test("an event whose NOTIFY was lost is found by the tick", async (t) => {
  const { url, sql, session } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createWebhook(sql, { url: receiver.url() });
  await startWorkerProcess(t, url);
  const awake = session();
  await asleep(sql);
  await awake`select webhookpub.enter_fan_out()`;
  await publish(sql);
  await awake`select webhookpub.leave_fan_out()`;
  await delivered(sql, 1);
  t.equal(receiver.requests.length, 1);
});

void t.test("a direct event whose NOTIFY was lost is found by the tick", async (t) => {
  const { url, sql, session } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createWebhook(sql, { url: receiver.url() });
  await startWorkerProcess(t, url);
  const awake = session();
  await asleep(sql);
  await awake`select webhookpub.enter_fan_out()`;
  await sql`select webhook_publish('email.received', 'user_1', '{}')`;
  await awake`select webhookpub.leave_fan_out()`;
  await delivered(sql, 1);
  t.equal(receiver.requests.length, 1);
});

void t.test("a retry is made when it is due, though no job waits for it", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  receiver.reply = (_request, n) => (n === 1 ? 503 : 200);
  await createWebhook(sql, { url: receiver.url(), retrySchedule: "{3 s}" });
  await startWorkerProcess(t, url);
  await publish(sql);
  await receiver.received(1);
  await asleep(sql);
  await delivered(sql, 1);
  t.equal(receiver.requests.length, 2);
});

for (const { what, prepare, says } of [
  {
    what: "without the schema",
    prepare: async (t: Test) => (await emptyDatabase(t)).url,
    says: "webhookpub is not installed",
  },
  {
    what: "of another version",
    prepare: async (t: Test) => {
      const { url, sql } = await testDatabase(t);
      await sql`update webhookpub.migrations set name = '000001'`;
      return url;
    },
    says: "the database is older",
  },
]) {
  void t.test(`a worker refuses a database ${what}`, async (t) => {
    const worker = await startWorkerProcess(t, await prepare(t));
    const code = await worker.ended();
    t.type(code, "number");
    t.not(code, 0);
    t.match(worker.output(), "WH030");
    t.match(worker.output(), says);
    t.match(worker.output(), "npm run migrate", "and says what to do");
  });
}

void t.test("npm start migrates, delivers and stops when it is told to", async (t) => {
  const { url, sql } = await emptyDatabase(t);
  const receiver = await startReceiver(t);
  const secret = new URL(url);
  secret.password = "top-secret";
  for (const [i, signal] of (["SIGTERM", "SIGINT"] as const).entries()) {
    const program = await startProcess(t, "src/cli/webhookpub.ts start", {
      env: { DATABASE_URL: secret.href },
      ready: "looking for jobs",
    });
    t.equal(program.output().split("\n")[0], `psql "${url}"`, "what to look with");
    t.notMatch(program.output(), "top-secret");
    if (i === 0) {
      await sql`
        update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
      await createWebhook(sql, { url: receiver.url() });
    }
    await publish(sql);
    await delivered(sql, i + 1);
    program.kill(signal);
    t.equal(await program.ended(), 0, signal);
    t.equal(await lockedJobs(sql), 0);
  }
});

for (const program of ["npx graphile-worker", "npm start"]) {
  void t.test(`${program} outlives its connections, or ends to be started again`, async (t) => {
    const { url, sql, session } = await testDatabase(t);
    const receiver = await startReceiver(t);
    await createWebhook(sql, { url: receiver.url(), retrySchedule: "{100 ms,100 ms,100 ms}" });
    const killer = session();
    const supervised = await supervise(t, () =>
      program === "npm start"
        ? startOrEnd(t, "src/cli/webhookpub.ts start", {
            env: { DATABASE_URL: url },
            ready: "looking for jobs",
          })
        : startWorkerProcess(t, url),
    );
    for (let round = 1; round <= 3; round++) {
      await publish(sql, { count: 50 });
      await receiver.received((round - 1) * 50 + 10);
      await killer`
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()`;
      await until(async () => {
        // As if leases were short: nothing here takes a second, so these were lost.
        await killer`
          update webhookpub.queue set due_at = now()
          where leased and last_attempt_at < now() - interval '1 second'`;
        const done = await killer`
          select from webhookpub.deliveries where status = 'delivered'`;
        return done.count === round * 50;
      }, `round ${round}`);
    }
    const ids = new Set(receiver.requests.map(({ headers }) => headers["webhook-id"]));
    t.equal(ids.size, 150, "nothing is lost");
    await supervised.stop();
    t.notOk(supervised.ends().includes(0), "one that ends by itself says so");
  });
}

void t.test("an event that a worker hears of is delivered with no job", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const worker = await startWorkerProcess(t, url);
  await createWebhook(sql, { url: receiver.url() });
  // Its tick comes after its LISTEN, on the same connection.
  await until(
    async () =>
      (
        await sql`
          select from pg_stat_activity
          where datname = current_database()
            and query = 'select webhookpub.wake(p_window => $1::interval)'`
      ).count > 0,
    "the worker to listen",
  );
  await sql`
    create function public.no_job() returns trigger language plpgsql as 'begin return null; end'`;
  await sql`
    create trigger no_job before insert on graphile_worker._private_jobs
    for each row execute function public.no_job()`;
  await publish(sql, {});
  await delivered(sql, 1);
  t.notMatch(worker.output(), /crontab/, "nor does it miss a crontab");
  // A round of upkeep that was there before may still be under way.
  await until(async () => (await sql`select from graphile_worker.jobs`).count === 0, "no job");
});

void t.test("a fan-out that loses its connection takes a seat again, under load", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createWebhook(sql, { url: receiver.url() });
  await startWorkerProcess(t, url);
  /** Who tells publishers that a fan-out is awake. */
  const holders = async () =>
    (
      await sql<{ pid: number }[]>`
        select l.pid
        from pg_locks as l
        join pg_stat_activity as a using (pid)
        where l.locktype = 'advisory' and l.classid = 2003006832 and l.objid = 1
          and l.mode = 'ShareLock' and l.granted and a.datname = current_database()`
    ).map(({ pid }) => pid);
  let over = false;
  // So that it never falls asleep.
  const trickle = async () => {
    while (!over) {
      await publish(sql, { count: 20 });
      await sleep(50);
    }
  };
  const publishing = trickle();
  for (const round of [1, 2, 3]) {
    let before: number[] = [];
    await until(async () => (before = await holders()).length > 0, `a seat, round ${round}`);
    await sql`select pg_terminate_backend(pid, 60000) from unnest(${before}::integer[]) as pid`;
    await until(async () => (await holders()).length > 0, `a seat again, round ${round}`, 30_000);
  }
  over = true;
  await publishing;
});

void t.test("a worker that freezes as it fans out keeps nobody from NOTIFY", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createWebhook(sql, { url: receiver.url() });
  const frozen = await startWorkerProcess(t, url, { args: ["--crontab", "/dev/null"] });
  await asleep(sql);
  // So many keep it awake for a while.
  await publish(sql, { count: 100 });
  const isAwake = async () => {
    const [row] = await sql<[{ asleep: boolean }]>`
      select webhookpub.fan_out_is_asleep() as asleep`;
    return !row.asleep;
  };
  await until(isAwake, "a fan-out");
  frozen.kill("SIGSTOP");
  t.ok(await isAwake(), "it froze in its seat");
  await asleep(sql);
  frozen.kill("SIGCONT");
  await publish(sql);
  await delivered(sql, 101);
});

void t.test("a round of upkeep that is left open in psql stops nothing", async (t) => {
  const { url, sql, session } = await testDatabase(t);
  const receiver = await startReceiver(t);
  receiver.reply = (_request, n) => (n === 1 ? 503 : 200);
  await createWebhook(sql, { url: receiver.url(), retrySchedule: "{2 s}" });
  await publish(sql);
  const psql = session();
  await psql`begin`;
  await psql`select webhookpub.maintain()`;
  await startWorkerProcess(t, url);
  await delivered(sql, 1);
  t.equal(receiver.requests.length, 2, "an event, and the retry of its delivery");
  await publish(sql, { count: 10 });
  await delivered(sql, 11);
  await psql`rollback`;
});

void t.test("while somebody holds the deliveries for long, sessions do not pile up", async (t) => {
  const { url, sql, session } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await startWorkerProcess(t, url);
  for (let n = 0; n < 20; n += 1) await createWebhook(sql, { url: receiver.url() });
  await publish(sql);
  await delivered(sql, 20);
  const own = new Set(
    (
      await sql<{ pid: number }[]>`
      select pid from pg_stat_activity
      where datname = current_database() and query !~ 'webhookpub|graphile_worker'`
    ).map(({ pid }) => pid),
  );
  const psql = session();
  await psql`begin`;
  await psql`lock table webhookpub.queue in access exclusive mode`;
  const begun = performance.now();
  const counts: number[] = [];
  // Each statement's wait for the lock ends in that time, many times over.
  while (performance.now() - begun < 30_000) {
    await publish(sql);
    const sessions = await sql<{ pid: number }[]>`
      select pid from pg_stat_activity
      where datname = current_database() and application_name = 'webhookpub'`;
    counts.push(sessions.filter(({ pid }) => !own.has(pid)).length);
    await sleep(500);
  }
  await psql`rollback`;
  // Those of the worker, and ten of this test.
  t.ok(Math.max(...counts) <= 10 + 10, `at most ${Math.max(...counts)} sessions`);
  await until(async () => {
    const [row] = await sql<[{ pending: number }]>`
      select count(*)::integer as pending from webhookpub.deliveries where status = 'pending'`;
    return row.pending === 0 && receiver.requests.length >= 20 * (counts.length + 1);
  }, "everything to be delivered");
});

void t.test("a worker delivers whatever isolation the database has by default", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await sql.unsafe(
    `alter database ${new URL(url).pathname.slice(1)} set default_transaction_isolation = serializable`,
  );
  const workers = [await startWorkerProcess(t, url), await startWorkerProcess(t, url)];
  for (let i = 0; i < 10; i += 1) await createWebhook(sql, { url: receiver.url() });
  for (let i = 0; i < 20; i += 1) await publish(sql, { count: 5 });
  await delivered(sql, 1000);
  const sessions = await sql<{ isolation: string }[]>`show default_transaction_isolation`;
  t.strictSame([...sessions], [{ default_transaction_isolation: "read committed" }]);
  // graphile-worker's own connections are its own business.
  const ours = /(leasing|recording|fan-out|tick|waking).*could not serialize/;
  for (const worker of workers) t.notMatch(worker.output(), ours);
});
