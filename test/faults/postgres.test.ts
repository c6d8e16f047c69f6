import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { stoppableDatabase } from "../support/database.ts";
import { supervise } from "../support/supervise.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { count, running, terminate } from "./backends.ts";
import { isAccepted, isOpen } from "./receiver_process.ts";
import { conserved, endedInTime, makeWorld, secondsSince, type World } from "./world.ts";

// Each has a PostgreSQL of its own, and mostly waits.
t.jobs = 3;

const DISK_FULL = "could not extend file";
/** Lets no answer be recorded. */
const fillDisk = (world: World) =>
  world.sql.unsafe(`
    create function application.tg_attempts__fill () returns trigger language plpgsql as $$
    begin
      raise exception using errcode = '53100', message = '${DISK_FULL}';
    end $$;
    create trigger attempts__fill before insert on webhookpub.attempts
      for each row execute function application.tg_attempts__fill()`);
const freeDisk = (world: World) => world.sql`drop trigger attempts__fill on webhookpub.attempts`;

const start = (t: Test, world: World) => supervise(t, () => startWorkerProcess(t, world.url));

for (const mode of ["fast", "immediate"] as const) {
  void t.test(`PostgreSQL restarted under load, -m ${mode}`, async (t) => {
    const database = await stoppableDatabase(t);
    const world = await makeWorld(t, database);
    // Leases of 17 s.
    const shared = { requestTimeout: "2 s", maxInFlight: 10, retrySchedule: "{1 s,1 s,1 s,1 s}" };
    await world.webhook("one", shared);
    await world.webhook("two", shared);
    await world.webhook("fails_once", shared);
    await world.receivers.behave({ fails_once: { answers: [500, 200], delayMs: 20 } });
    const workers = [await start(t, world), await start(t, world)];
    const load = world.load({ connections: 3, pauseMs: 50 });
    for (const round of [1, 2]) {
      const before = world.receivers.requests().length;
      await world.receivers.saw(before + 300, () => true, `load, round ${round}`);
      await database.cluster.stop(mode);
      await database.cluster.start();
    }
    const restarted = performance.now();
    const before = world.receivers.requests().length;
    await world.receivers.saw(before + 300, () => true, "load afterwards");
    await load.stop();
    await world.settled();
    const { failed } = await conserved(t, world, {
      allowed: 2 * 30,
      seconds: secondsSince(restarted),
    });
    t.equal(failed, 0);
    const ends = workers.flatMap((worker) => worker.ends());
    t.comment(`workers ended ${ends.length} times: ${ends.join()}`);
    t.notOk(ends.includes(0), "one that ends by itself says so");
  });
}

void t.test("PostgreSQL is down when 20 requests are answered", async (t) => {
  const database = await stoppableDatabase(t);
  const world = await makeWorld(t, database);
  await world.webhook("one", { requestTimeout: "20 s" });
  await world.receivers.behave({ one: "hold" });
  const worker = await start(t, world);
  await world.publish(20);
  await world.receivers.saw(20, isOpen, "20 requests in flight");
  await database.cluster.stop("fast");
  await world.receivers.behave({ one: { answers: [200] } });
  await world.receivers.saw(20, isAccepted, "20 answers");
  await until(
    () => worker.output().includes("recording") || worker.ends().length > 0,
    "the worker to notice",
  );
  await database.cluster.start();
  const started = performance.now();
  await world.settled();
  const ended = worker.ends().length > 0;
  // One that ends has told what it knew before.
  await conserved(t, world, { allowed: 0, seconds: secondsSince(started) });
  t.comment(ended ? `the worker ended with ${worker.ends().join()}` : "the worker lived on");
});

for (const [what, isDown] of [
  ["SIGTERM while PostgreSQL is down", true],
  ["SIGTERM, and PostgreSQL goes down while requests are waited for", false],
] as const) {
  void t.test(what, async (t) => {
    const database = await stoppableDatabase(t);
    const world = await makeWorld(t, database);
    const deadline = 4;
    await world.webhook("one", { requestTimeout: `${deadline} s` });
    await world.receivers.behave({ one: "hold" });
    const worker = await startWorkerProcess(t, world.url);
    await world.publish(20);
    await world.receivers.saw(20, isOpen, "20 requests in flight");
    if (isDown) await database.cluster.stop("fast");
    const told = performance.now();
    worker.kill("SIGTERM");
    if (!isDown) {
      await until(() => worker.output().includes("SIGTERM"), "the worker to hear it");
      await database.cluster.stop("fast");
    }
    const end = await worker.ended();
    endedInTime(t, secondsSince(told), deadline);
    t.ok(end === "SIGTERM" || end === 0, `it ends with ${end}, though it can give nothing back`);
    t.notMatch(worker.output(), "no answer within 30000 ms", "and waits for none in vain");
    await database.cluster.start();
    await world.receivers.behave({ one: { answers: [200] } });
    await startWorkerProcess(t, world.url);
    await world.settled();
    await conserved(t, world, { allowed: 20, seconds: secondsSince(told) });
  });
}

void t.test("SIGTERM to a worker that holds answers, for PostgreSQL is down", async (t) => {
  const database = await stoppableDatabase(t);
  const world = await makeWorld(t, database);
  await world.webhook("one", { requestTimeout: "20 s" });
  await world.receivers.behave({ one: "hold" });
  const worker = await startWorkerProcess(t, world.url);
  await world.publish(20);
  await world.receivers.saw(20, isOpen, "20 requests in flight");
  await database.cluster.stop("fast");
  await world.receivers.behave({ one: { answers: [200] } });
  await world.receivers.saw(20, isAccepted, "20 answers");
  await until(() => worker.output().includes("recording"), "answers that can't be recorded");
  worker.kill("SIGTERM");
  t.ok(await worker.ended(), "it does not wait for the database");
  // Its pool ends by itself only if it was completing a job in that instant.
  t.comment(worker.output().includes("Failed to") ? "it was ending already" : "it was not");
  await database.cluster.start();
  await startWorkerProcess(t, world.url);
  const started = performance.now();
  await world.settled();
  await conserved(t, world, { allowed: 20, seconds: secondsSince(started) });
});

void t.test("the connections that listen are terminated", async (t) => {
  const world = await makeWorld(t, await stoppableDatabase(t));
  await world.webhook("one");
  const worker = await start(t, world);
  for (const _round of [1, 2, 3]) {
    await until(async () => {
      const [{ asleep }] = await world.sql<[{ asleep: boolean }]>`
        select webhookpub.fan_out_is_asleep() as asleep`;
      return asleep;
    }, "the fan-out to fall asleep");
    let listening: number[] = [];
    await until(async () => {
      listening = [
        ...(await running(world.sql, "webhookpub.wake(")),
        ...(await running(world.sql, 'LISTEN "')),
      ];
      return listening.length >= 2;
    }, "the wake-up's connection and graphile-worker's own");
    await terminate(world.sql, listening);
    await world.publish(10);
    const published = performance.now();
    await world.settled();
    await conserved(t, world, { allowed: 0, seconds: secondsSince(published) });
  }
  t.strictSame(worker.ends(), [], "the worker lives on");
});

void t.test("all connections are terminated under load, five times", async (t) => {
  const world = await makeWorld(t, await stoppableDatabase(t));
  await world.webhook("one", { requestTimeout: "2 s", maxInFlight: 10 });
  await world.webhook("two", { requestTimeout: "2 s", maxInFlight: 10 });
  const workers = [await start(t, world), await start(t, world)];
  const load = world.load({ connections: 3, pauseMs: 50 });
  const killer = world.session();
  for (const round of [1, 2, 3, 4, 5]) {
    const before = world.receivers.requests().length;
    await world.receivers.saw(before + 200, () => true, `load, round ${round}`);
    await killer`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()`;
  }
  const terminated = performance.now();
  await load.stop();
  await world.settled();
  await conserved(t, world, { allowed: 5 * 20, seconds: secondsSince(terminated) });
  const ends = workers.flatMap((worker) => worker.ends());
  t.comment(`workers ended ${ends.length} times: ${ends.join()}`);
  t.notOk(ends.includes(0), "one that ends by itself says so");
});

void t.test("a full disk, for a time, when answers are recorded", async (t) => {
  const world = await makeWorld(t, await stoppableDatabase(t));
  await world.webhook("one", { requestTimeout: "20 s" });
  await fillDisk(world);
  const worker = await startWorkerProcess(t, world.url);
  await world.publish(50);
  await until(() => worker.output().split(DISK_FULL).length > 4, "errors");
  t.equal(await count(world.sql`select from webhookpub.attempts`), 0);
  await freeDisk(world);
  const freed = performance.now();
  await world.settled();
  await conserved(t, world, { allowed: 0, seconds: secondsSince(freed) });
});

void t.test("answers that can't be recorded until their leases have run out", async (t) => {
  const world = await makeWorld(t, await stoppableDatabase(t));
  await world.webhook("one");
  await world.receivers.behave({ one: "hold" });
  await fillDisk(world);
  const worker = await startWorkerProcess(t, world.url);
  await world.publish(20);
  await world.receivers.saw(20, isOpen, "20 requests in flight");
  await world.receivers.behave({ one: { answers: [200] } });
  await world.receivers.saw(20, isAccepted, "20 answers");
  await until(() => worker.output().includes(DISK_FULL), "errors");
  // Longer than any record should take.
  await sleep(6000);
  const lastJob = async () => {
    const [{ id }] = await world.sql<[{ id: string }]>`
      select pg_sequence_last_value(
        pg_get_serial_sequence('graphile_worker._private_jobs', 'id')::regclass
      ) as id`;
    return Number(id);
  };
  const before = await lastJob();
  // As if time had passed.
  await world.sql`update webhookpub.queue set due_at = now() where leased`;
  await until(
    async () =>
      (await lastJob()) > before &&
      (await count(world.sql`select from graphile_worker.jobs`)) === 0,
    "a job for what is due, and its end",
  );
  await freeDisk(world);
  const freed = performance.now();
  await world.settled();
  await conserved(t, world, { allowed: 0, seconds: secondsSince(freed) });
});

void t.test("records wait for a lock for some seconds each, until it is free", async (t) => {
  const world = await makeWorld(t, await stoppableDatabase(t));
  await world.webhook("one", { requestTimeout: "20 s" });
  const lock = world.session();
  await lock`begin`;
  await lock`lock table webhookpub.attempts in share mode`;
  const worker = await startWorkerProcess(t, world.url);
  await world.publish(50);
  await until(() => worker.output().split("lock timeout").length > 2, "errors");
  t.equal(await count(world.sql`select from webhookpub.attempts`), 0);
  await lock`rollback`;
  const freed = performance.now();
  await world.settled();
  await conserved(t, world, { allowed: 0, seconds: secondsSince(freed) });
});
