import t, { type Test } from "tap";
import { testDatabase } from "../support/database.ts";
import { startProcess } from "../support/process.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { blockedIn, count, terminate } from "./backends.ts";
import { isAccepted, isOpen, type Request } from "./receiver_process.ts";
import { conserved, endedInTime, makeWorld, secondsSince } from "./world.ts";

// They wait for leases to end, not for the processor.
t.jobs = 4;

/** Seconds within which what a killed worker held is delivered; half of it are its leases. */
const PROMISED = 60;

void t.test("SIGKILL of one of two workers with 40 requests in flight", async (t) => {
  const world = await makeWorld(t, await testDatabase(t));
  const held = ["held_1", "held_2", "held_3", "held_4"];
  const all = (behaviour: "hold" | { answers: [200] }) =>
    world.receivers.behave(Object.fromEntries(held.map((name) => [name, behaviour])));
  for (const name of held) await world.webhook(name, { userId: "user_2", maxInFlight: 10 });
  await world.webhook("busy", { maxInFlight: 5 });
  await all("hold");
  const victim = await startWorkerProcess(t, world.url);
  const other = await startWorkerProcess(t, world.url);
  const load = world.load({ connections: 2, pauseMs: 50 });
  await world.receivers.saw(100, isAccepted, "load");
  // So that all of them are the victim's.
  other.kill("SIGSTOP");
  await world.publish(30, { userId: "user_2" });
  const isHeld = (request: Request) => isOpen(request) && held.includes(request.webhook);
  await world.receivers.saw(40, isHeld, "40 requests in flight");
  other.kill("SIGCONT");

  victim.kill("SIGKILL");
  const killed = performance.now();
  const [{ last }] = await world.sql<[{ last: string }]>`
    select max(id) as last from webhookpub.deliveries`;
  await all({ answers: [200] });
  await until(
    async () =>
      (await count(world.sql`
        select from webhookpub.deliveries where id <= ${last} and status = 'pending'`)) === 0,
    "everything that there was when it was killed",
  );
  const seconds = secondsSince(killed);
  await load.stop();
  await world.settled();
  // What the busy webhook had in flight can't be told from outside; its bound can.
  const { failed } = await conserved(t, world, { allowed: 40 + 5, seconds, promised: PROMISED });
  t.equal(failed, 0);
});

/**
 * Twenty requests are answered, but a lock keeps the answers from being recorded; then their
 * worker is killed.
 */
async function killBeforeRecord(t: Test) {
  const world = await makeWorld(t, await testDatabase(t));
  await world.webhook("one", { requestTimeout: "5 s" });
  const lock = world.session();
  await lock`begin`;
  await lock`lock table webhookpub.attempts in share mode`;
  const victim = await startWorkerProcess(t, world.url);
  await world.publish(20);
  await world.receivers.saw(20, isAccepted, "20 answers");
  await until(async () => (await blockedIn(world.sql, "record_attempts")).length > 0, "a record");

  victim.kill("SIGKILL");
  const killed = performance.now();
  await victim.ended();
  return { world, killed, unlock: () => lock`rollback` };
}

void t.test("SIGKILL between the receivers' 200 and a record that never arrives", async (t) => {
  const { world, killed, unlock } = await killBeforeRecord(t);
  await terminate(world.sql, await blockedIn(world.sql, "record_attempts"));
  await unlock();
  t.equal(await count(world.sql`select from webhookpub.attempts`), 0);
  await startWorkerProcess(t, world.url);
  await world.settled();
  const seconds = secondsSince(killed);
  const figures = await conserved(t, world, { allowed: 20, seconds, promised: PROMISED });
  t.equal(figures.duplicates, 20, "only the receivers knew");
});

void t.test("SIGKILL between the receivers' 200 and a record that is under way", async (t) => {
  const { world, killed, unlock } = await killBeforeRecord(t);
  await unlock();
  await until(
    async () =>
      (await count(world.sql`
        select from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and state = 'active'`)) ===
      0,
    "the record to end",
  );
  const recorded = await count(world.sql`select from webhookpub.attempts`);
  t.ok(recorded > 0, "it was kept, though nobody heard of it");
  await startWorkerProcess(t, world.url);
  await world.settled();
  const seconds = secondsSince(killed);
  const figures = await conserved(t, world, { allowed: 19, seconds, promised: PROMISED });
  t.equal(figures.duplicates, 20 - recorded, "what PostgreSQL had is not sent again");
});

void t.test("SIGKILL of a fan-out in the middle of its batch", async (t) => {
  const world = await makeWorld(t, await testDatabase(t));
  for (const name of ["one", "two", "three"]) await world.webhook(name);
  await world.publish(300);
  // Somebody else has a delivery of one of them, and has not committed yet.
  const other = world.session();
  await other`begin`;
  await other`
    insert into webhookpub.delivery_history
      (id, webhook_id, event_id, event_type, event_created_at, created_at, max_attempts)
    select webhookpub.first_delivery_prefix(e.id, e.created_at) || substr(w.id, 4, 12),
      w.id, e.id, e.type, e.created_at, now(), 8
    from (select * from webhookpub.events order by expires_at offset 150 limit 1) as e
    cross join (select id from webhookpub.webhooks order by id offset 1 limit 1) as w`;
  const victim = await startWorkerProcess(t, world.url);
  await until(async () => (await blockedIn(world.sql, "fan_out")).length > 0, "the batch");

  victim.kill("SIGKILL");
  const killed = performance.now();
  await victim.ended();
  await terminate(world.sql, await blockedIn(world.sql, "fan_out"));
  await other`rollback`;
  t.equal(await count(world.sql`select from webhookpub.deliveries`), 0, "nothing of the batch");
  t.equal(await count(world.sql`select from webhookpub.events where status = 'pending'`), 300);
  await startWorkerProcess(t, world.url);
  await world.settled();
  const seconds = secondsSince(killed);
  const figures = await conserved(t, world, { allowed: 0, seconds, promised: PROMISED });
  t.equal(figures.deliveries, 900);
});

for (const { when, events } of [
  { when: "before COMMIT", events: 0 },
  { when: "after COMMIT", events: 20 },
]) {
  void t.test(`SIGKILL of a publisher ${when}`, async (t) => {
    const world = await makeWorld(t, await testDatabase(t));
    await world.webhook("one");
    await startWorkerProcess(t, world.url);
    const publisher = await startProcess(t, "test/faults/publisher.ts", {
      env: { DATABASE_URL: world.url, WAIT: when },
      ready: when,
    });
    publisher.kill("SIGKILL");
    const killed = performance.now();
    await publisher.ended();
    // Another one publishes: where its event is, those before it would be, too.
    await world.publish(1);
    await world.settled();
    const figures = await conserved(t, world, { allowed: 0, seconds: secondsSince(killed) });
    t.equal(figures.delivered, events + 1);
  });
}

void t.test("SIGSTOP for longer than the lease, then SIGCONT", async (t) => {
  const world = await makeWorld(t, await testDatabase(t));
  await world.webhook("taken_over", { requestTimeout: "5 s", maxInFlight: 10 });
  await world.webhook("failing_elsewhere", {
    requestTimeout: "5 s",
    maxInFlight: 10,
    retrySchedule: "{1 hour}",
  });
  await world.receivers.behave({ taken_over: "hold", failing_elsewhere: "hold" });
  const stopped = await startWorkerProcess(t, world.url);
  await world.publish(10);
  await world.receivers.saw(20, isOpen, "20 requests in flight");
  stopped.kill("SIGSTOP");
  await world.receivers.behave({
    taken_over: { answers: [200] },
    failing_elsewhere: { answers: [200, 500] },
  });
  await startWorkerProcess(t, world.url);
  await world.receivers.saw(40, ({ answered }) => answered !== undefined, "40 answers");
  await until(
    async () => (await count(world.sql`select from webhookpub.attempts`)) === 20,
    "20 records",
  );
  const states = () => world.sql`select d.* from webhookpub.deliveries as d order by d.id`;
  const before = await states();

  stopped.kill("SIGCONT");
  const continued = performance.now();
  await until(
    async () => (await count(world.sql`select from webhookpub.attempts`)) === 40,
    "the late answers",
  );
  const isDelivered = ({ status }: { status?: string }) => status === "delivered";
  const after = await states();
  t.strictSame(
    after.filter((_, i) => isDelivered(before[i] ?? {})),
    before.filter(isDelivered),
  );
  await world.settled();
  const figures = await conserved(t, world, { allowed: 20, seconds: secondsSince(continued) });
  t.equal(figures.delivered, 20, "a late 2xx counts where nothing newer is known");
  t.equal(figures.requests, 40);
});

void t.test("SIGTERM with requests in flight, and one receiver that hangs", async (t) => {
  const world = await makeWorld(t, await testDatabase(t));
  const deadline = 4;
  const options = { requestTimeout: `${deadline} s`, maxInFlight: 10, retrySchedule: "{1 s}" };
  await world.webhook("answers", options);
  const hangs = await world.webhook("hangs", options);
  await world.receivers.behave({ answers: "hold", hangs: "hold" });
  const worker = await startWorkerProcess(t, world.url);
  await world.publish(15);
  await world.receivers.saw(20, isOpen, "20 requests in flight");
  worker.kill("SIGTERM");
  const told = performance.now();
  await until(() => worker.output().includes("SIGTERM"), "the worker to hear it");
  await world.receivers.behave({ answers: { answers: [200] } });
  t.equal(await worker.ended(), "SIGTERM");
  endedInTime(t, secondsSince(told), deadline);
  t.equal(await count(world.sql`select from webhookpub.deliveries where leased`), 0);
  t.equal(await count(world.sql`select from graphile_worker.jobs where locked_at is not null`), 0);
  t.equal(
    await count(world.sql`select from webhookpub.deliveries where status = 'delivered'`),
    10,
    "what was answered is recorded",
  );
  t.equal(world.receivers.requests().length, 20, "and nothing new was begun");

  await world.receivers.behave({ hangs: { answers: [200] } });
  // Its circuit has opened: somebody says that it works again.
  await world.sql`select webhookpub.enable_webhook(${hangs.id})`;
  await startWorkerProcess(t, world.url);
  const started = performance.now();
  await world.settled();
  const figures = await conserved(t, world, { allowed: 0, seconds: secondsSince(started) });
  t.equal(figures.delivered, 30);
});
