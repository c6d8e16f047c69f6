// An old worker under a migration that breaks its calls, which the rules of CONTRIBUTING.md forbid.
import t from "tap";
import { isAccepted, isOpen } from "../faults/receiver_process.ts";
import { conserved, makeWorld } from "../faults/world.ts";
import { testDatabase } from "../support/database.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

void t.test("a worker whose calls are gone loses nothing, and says so", async (t) => {
  const world = await makeWorld(t, await testDatabase(t));
  const { sql } = world;
  await world.webhook("held", { maxInFlight: 20, requestTimeout: "10 s" });
  await world.receivers.behave({ held: "hold" });
  const worker = await startWorkerProcess(t, world.url);
  await world.publish(10);
  await world.receivers.saw(10, isOpen, "10 requests in flight");
  const [{ signature }] = await sql<[{ signature: string }]>`
    select 'webhookpub.record_attempts'::regproc::oid::regprocedure::text as signature`;
  await sql.unsafe(`alter function ${signature} rename to record_answers`);
  await world.receivers.behave({ held: { answers: [200] } });
  await world.receivers.saw(10, isAccepted, "10 answers");
  await until(() => /recording \d+ attempts failed/.test(worker.output()), "it to say so");
  await world.publish(5);
  t.equal((await sql`select from webhookpub.attempts`).count, 0);
  worker.kill("SIGTERM");
  t.equal(await worker.ended(), "SIGTERM", "it ends all the same");

  await sql.unsafe(
    `alter function ${signature.replace("record_attempts", "record_answers")} rename to record_attempts`,
  );
  await startWorkerProcess(t, world.url);
  await world.settled();
  const { duplicates } = await conserved(t, world, { allowed: 15 });
  t.ok(duplicates >= 10, "what only receivers knew is sent again");
});
