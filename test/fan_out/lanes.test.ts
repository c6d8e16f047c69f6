import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { fanOutBatch, fanOutHeavy } from "../../src/database/calls.ts";
import { testDatabase } from "../support/database.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** More than the ordinary lane takes for one event. */
const MANY = 1100;

/** As many webhooks of a user, quicker than create_webhook would. */
async function createMany(sql: Sql, userId: string, url: string): Promise<void> {
  await createWebhook(sql, { userId, url });
  await sql`
    with made as (
      insert into webhookpub.webhooks (id, user_id, url, events, retry_schedule)
      select 'wh_' || lpad(n::text, 12, '0') || w.id, w.user_id, w.url, w.events, w.retry_schedule
      from webhookpub.webhooks as w, generate_series(2, ${MANY}::int) as n
      where w.user_id = ${userId}
      returning id
    )
    insert into webhookpub.secrets (webhook_id, secret)
    select m.id, s.secret
    from made as m
    join webhookpub.secrets as s on s.webhook_id = substr(m.id, 16)`;
}

async function status(sql: Sql, id: string | undefined): Promise<string | undefined> {
  const [event] = await sql<{ status: string }[]>`
    select status from webhookpub.events where id = ${id!}`;
  return event?.status;
}

void t.test("a heavy event is for a lane of its own, and a light one never waits", async (t) => {
  const { sql, session } = await testDatabase(t);
  await createMany(sql, "many", "https://receiver.example/");
  await createWebhook(sql);
  const [heavy] = await publish(sql, { userId: "many" });
  t.match(
    await fanOutBatch(sql),
    { event_count: 0, heavy_waits: true },
    "alone, it is left to the other lane, too",
  );

  const lane = session();
  await lane`begin`;
  t.match(await fanOutHeavy(lane), { event_count: 1, heavy_waits: null });
  const [light] = await publish(sql);
  t.match(await fanOutBatch(sql, 10), { event_count: 1, leased_ids: [String] });
  t.equal(await status(sql, light), "processed");
  t.equal(await status(sql, heavy), "pending");
  const seen = await sql`select from webhookpub.queue`;
  t.equal(seen.count, 1, "and of the heavy one's deliveries nobody sees a part");
  t.match(await fanOutHeavy(sql), { event_count: 0 }, "nor takes it a second time");
  await lane`commit`;
  t.equal(await status(sql, heavy), "processed");
  t.equal((await sql`select from webhookpub.queue`).count, 1 + MANY);
  t.match(await fanOutBatch(sql), { event_count: 0, heavy_waits: false });
});

void t.test("in the heavy lane users take turns", async (t) => {
  const { sql } = await testDatabase(t);
  for (const userId of ["b", "a", "c"]) {
    await createMany(sql, userId, "https://receiver.example/");
    await publish(sql, { userId, count: userId === "b" ? 3 : 1 });
  }
  const turns: string[] = [];
  await until(async () => {
    await fanOutBatch(sql);
    const { event_count: count } = await fanOutHeavy(sql);
    const [last] = await sql<{ user_id: string }[]>`
      select user_id from webhookpub.events
      where status = 'processed' order by processed_at desc limit 1`;
    if (count > 0) turns.push(last?.user_id ?? "");
    return count === 0;
  }, "the last one");
  t.strictSame(turns, ["a", "b", "c", "b", "b"]);
});

void t.test("what failed goes through the heavy lane, whoever sets it back", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql);
  const [id] = await publish(sql);
  await sql`alter table webhookpub.delivery_history add constraint closed check (false) not valid`;
  t.match(await fanOutBatch(sql), { event_count: 0, heavy_waits: false }, "it waits");
  await sql`alter table webhookpub.delivery_history drop constraint closed`;
  await sql`update webhookpub.events set retry_at = now()`;
  t.match(await fanOutBatch(sql), { event_count: 0, heavy_waits: true });
  t.match(await fanOutHeavy(sql), { event_count: 1, delivery_count: 1 });

  await sql`update webhookpub.events set status = 'pending'`;
  t.match(await fanOutBatch(sql), { event_count: 1 }, "set back by hand, it is one like others");
  t.equal(await status(sql, id), "processed");
});

void t.test("a worker delivers beside an event that takes long to fan out", async (t) => {
  const { url, sql, session } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createMany(sql, "many", receiver.url("/many"));
  await createWebhook(sql, { url: receiver.url("/one") });
  // Its deliveries are not written before this lock is given back.
  await sql.unsafe(`
    create function wait_for_test() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock_shared(1); return new; end $$;
    create trigger wait_for_test before insert on webhookpub.delivery_history
      for each row when (new.webhook_id like 'wh_000000000002%') execute function wait_for_test()`);
  const holder = session();
  await holder`select pg_advisory_lock(1)`;
  await startWorkerProcess(t, url);
  const [heavy] = await publish(sql, { userId: "many" });
  await until(
    async () =>
      (
        await sql`
          select from pg_locks as l
          join pg_database as d on d.oid = l.database and d.datname = current_database()
          where l.locktype = 'advisory' and not l.granted`
      ).count > 0,
    "its fan-out to wait",
  );
  await publish(sql, { count: 3 });
  await receiver.received(3);
  t.strictSame(new Set(receiver.requests.map(({ path }) => path)), new Set(["/one"]));
  t.equal(await status(sql, heavy), "pending");
  await holder`select pg_advisory_unlock(1)`;
  await receiver.received(3 + MANY);
  await until(
    async () => (await sql`select from webhookpub.queue`).count === 0,
    "everything to be recorded",
  );
  t.equal(receiver.requests.length, 3 + MANY, "each once");
});
