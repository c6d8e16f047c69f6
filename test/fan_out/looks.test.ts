import t, { type Test } from "tap";
import { makePool } from "../../src/database/pool.ts";
import { makeFanOut } from "../../src/fan_out.ts";
import { testDatabase } from "../support/database.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";

/** A fan-out that nobody but the test tells to look. */
function startFanOut(t: Test, url: string) {
  const pool = makePool(url, { max: 1, statementMs: 60_000 });
  const stopping = new AbortController();
  const count = { wakes: 0, batches: 0 };
  const { look } = makeFanOut(
    pool,
    {
      room: () => 0,
      deliver: () => (count.batches += 1),
      wake: async () => void (count.wakes += 1),
      lookForHeavy: () => {},
    },
    stopping.signal,
  );
  t.teardown(async () => {
    stopping.abort();
    await look(false);
    await pool.close();
  });
  return { look, count };
}

void t.test("who leaves the NOTIFY to another is found as soon as it commits", async (t) => {
  const { sql, url, session } = await testDatabase(t);
  await createWebhook(sql);
  const { look } = startFanOut(t, url);
  const [first, second] = [session(), session()];
  const pending = async () =>
    (await sql`select from webhookpub.events where status = 'pending'`).count;
  // A machine that is slow may commit when the tick alone would find it: so, more than once.
  let isFound = false;
  for (let round = 0; round < 5 && !isFound; round += 1) {
    for (const publisher of [first, second]) {
      await publisher`begin`;
      await publish(publisher);
    }
    await first`commit`;
    await look(true);
    await second`commit`;
    await until(async () => (await pending()) === 0, "it", 2000).then(
      () => (isFound = true),
      () => look(false),
    );
  }
  t.ok(isFound);
});

void t.test("an event that is left out for its order is found as soon as it may go", async (t) => {
  const { sql, url, session } = await testDatabase(t);
  await createWebhook(sql, { ordered: true });
  const { look } = startFanOut(t, url);
  await publish(sql, { key: "a" });
  await look(true);
  const holder = session();
  const pending = async () =>
    (await sql`select from webhookpub.events where status = 'pending'`).count;
  let isFound = false;
  for (let round = 0; round < 5 && !isFound; round += 1) {
    await holder`begin`;
    await holder`select from webhookpub.queue where ordering_key = 'a' for update`;
    await publish(sql, { key: "a" });
    await look(true);
    t.equal(await pending(), 1, "somebody ends what is before it");
    await holder`commit`;
    await until(async () => (await pending()) === 0, "it", 2000).then(
      () => (isFound = true),
      () => look(false),
    );
  }
  t.ok(isFound);
});

void t.test("at rest a look is one statement, and others are woken only when told", async (t) => {
  const { url } = await testDatabase(t);
  const { look, count } = startFanOut(t, url);
  await look(false);
  t.equal(count.wakes, 0, "the tick has just done that");
  await look(true);
  t.equal(count.wakes, 1, "it may have been the direct path");
});
