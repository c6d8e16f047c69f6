import { join } from "node:path";
import t from "tap";
import { root } from "../../src/config.ts";
import { testDatabase } from "../support/database.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { count } from "./backends.ts";
import { isOpen } from "./receiver_process.ts";
import { conserved, makeWorld, secondsSince } from "./world.ts";

/** Makes a worker die of each request to /poisoned. */
const NODE_OPTIONS = `--import=${join(root, "test/faults/poison.ts")}`;

void t.test(
  "a delivery that kills each worker that takes it is parked; others go on",
  async (t) => {
    const world = await makeWorld(t, await testDatabase(t));
    const { sql } = world;
    await world.webhook("poisoned", { events: "{email.rejected}" });
    await world.webhook("beside", { events: "{email.sent,email.received,email.approved}" });
    await world.webhook("told", { events: "{webhook.*}" });
    await world.receivers.behave({ poisoned: "hold", beside: "hold" });
    const start = () => startWorkerProcess(t, world.url, { env: { NODE_OPTIONS } });
    const first = await start();
    await world.publish(9);
    await world.receivers.saw(9, isOpen, "9 innocent requests in flight");

    await sql`
    insert into application.published (event_id, user_id, type, data)
    select webhook_publish_tx('email.rejected', 'user_1', '{}'), 'user_1', 'email.rejected', '{}'`;
    const published = performance.now();
    for (let death = 1, worker = first; death <= 3; death += 1) {
      t.equal(await worker.ended(), "SIGKILL", `death ${death}`);
      if (death === 2) {
        t.ok(
          (await count(sql`select from webhookpub.queue where suspicion = 1`)) > 5,
          "two workers were lost with innocent ones, too",
        );
        await world.receivers.behave({ beside: { answers: [200] } });
      }
      // As if time had passed: the leases of a worker that is dead end.
      await sql`update webhookpub.queue set due_at = now() where leased`;
      worker = await start();
    }
    await world.settled();
    // What told is told of is no event of the application's, and is left out by the judge.
    const figures = await conserved(t, world, {
      allowed: 18 + 2,
      seconds: secondsSince(published),
    });
    t.match(figures, { failed: 1 });
    const innocent = await sql`
    select from webhookpub.deliveries where event_type <> 'email.rejected' and status = 'delivered'
      and webhook_id = (select id from webhookpub.webhooks where url like '%/beside')`;
    t.equal(innocent.count, 9, "all others got through");
    const parked = await sql`
    select event_type, attempts, last_error from webhookpub.deliveries where status = 'failed'`;
    t.strictSame(
      [...parked],
      [
        {
          event_type: "email.rejected",
          attempts: 3,
          last_error: "parked: its worker was lost 3 times",
        },
      ],
    );
    const told = await sql`
    select from webhookpub.deliveries where event_type = 'webhook.delivery_failed'`;
    t.equal(told.count, 1, "and its user is told");
  },
);
