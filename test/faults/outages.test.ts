import t from "tap";
import { testDatabase } from "../support/database.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { count } from "./backends.ts";
import { isOpen } from "./receiver_process.ts";
import { conserved, makeWorld, secondsSince } from "./world.ts";

t.jobs = 2;

void t.test("graphile-worker's jobs are deleted by hand, workers stopped", async (t) => {
  const world = await makeWorld(t, await testDatabase(t));
  for (const name of ["one", "two", "three"]) {
    await world.webhook(name, { retrySchedule: "{100 ms}" });
  }
  // Fanned out, so that each webhook has a job; and events for another one, which has none.
  await world.webhook("other", { userId: "user_2" });
  await world.publish(100);
  await world.sql`select webhookpub.fan_out()`;
  await world.publish(10, { userId: "user_2" });
  await world.sql`select webhookpub.wake()`;
  t.equal(
    await count(
      world.sql`select from graphile_worker.jobs where task_identifier <> 'webhook_maintain'`,
    ),
    4,
  );
  await world.sql`delete from graphile_worker._private_jobs`;
  await startWorkerProcess(t, world.url);
  const started = performance.now();
  await world.settled();
  await conserved(t, world, { allowed: 0, seconds: secondsSince(started) });
});

void t.test("graphile-worker's jobs are deleted by hand, under load", async (t) => {
  const world = await makeWorld(t, await testDatabase(t));
  await world.webhook("slow", { maxInFlight: 2 });
  for (const name of ["one", "two", "fails_once"]) {
    await world.webhook(name, { retrySchedule: "{2 s,2 s}" });
  }
  await world.receivers.behave({
    slow: "hold",
    fails_once: { answers: [500, 200] },
  });
  for (const _worker of [1, 2]) await startWorkerProcess(t, world.url);
  const load = world.load({ connections: 2, pauseMs: 50 });
  for (const round of [1, 2, 3, 4, 5]) {
    const before = world.receivers.requests().length;
    await world.receivers.saw(before + 100, () => true, `load, round ${round}`);
    await world.sql`delete from graphile_worker._private_jobs`;
  }
  const deleted = performance.now();
  await load.stop();
  await world.receivers.saw(2, isOpen, "the slow one");
  await world.receivers.behave({ slow: { answers: [200] } });
  await world.settled();
  const figures = await conserved(t, world, { allowed: 0, seconds: secondsSince(deleted) });
  t.equal(figures.delivered, figures.deliveries);
});
