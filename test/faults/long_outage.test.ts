import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { testDatabase } from "../support/database.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { count } from "./backends.ts";
import { isAccepted } from "./receiver_process.ts";
import { conserved, makeWorld, secondsSince } from "./world.ts";

const OUTAGE_MS = 120_000;

void t.test("no worker runs for two minutes, and publishing goes on", async (t) => {
  const world = await makeWorld(t, await testDatabase(t));
  for (const name of ["one", "two"]) await world.webhook(name);
  const workers = [await startWorkerProcess(t, world.url), await startWorkerProcess(t, world.url)];
  const load = world.load({ connections: 2, pauseMs: 250 });
  await world.receivers.saw(200, isAccepted, "load");
  for (const worker of workers) worker.kill("SIGKILL");
  for (const worker of workers) await worker.ended();
  // What they had sent is read before this is.
  await world.receivers.behave({});
  const requests = world.receivers.requests().length;
  const published = () => count(world.sql`select from application.published`);
  const halves = [await published()];
  for (const _half of [1, 2]) {
    await sleep(OUTAGE_MS / 2);
    halves.push(await published());
  }
  const [before = 0, meanwhile = 0, after = 0] = halves;
  t.ok(
    before < meanwhile && meanwhile < after,
    `${after - before} events were published in ${OUTAGE_MS / 1000} s`,
  );
  t.equal(world.receivers.requests().length, requests, "and none was sent");
  t.ok(
    (await count(world.sql`select from webhookpub.events where status = 'pending'`)) >=
      after - before,
    "they wait",
  );

  await startWorkerProcess(t, world.url);
  const started = performance.now();
  await load.stop();
  await world.settled();
  const figures = await conserved(t, world, { allowed: 2 * 20, seconds: secondsSince(started) });
  t.equal(figures.delivered, figures.deliveries);
});
