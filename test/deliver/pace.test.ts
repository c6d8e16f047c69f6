// A webhook with a pace gets so many requests a second, evenly, over all workers.
import t from "tap";
import { leaseDeliveries } from "../../src/database/calls.ts";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** Puts the pace's clock forward, as if so many seconds had passed. */
const pass = (sql: Sql, seconds: number) => sql`
  update webhookpub.paces set spent_until = spent_until - interval '1 second' * ${seconds}`;

void t.test("as many as have come up, and a quarter of a second's burst", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { maxPerSecond: 20, maxInFlight: 1000 });
  const other = await createWebhook(sql, { maxInFlight: 1000 });
  await publish(sql, { count: 100 });
  await fanOutAll(sql);

  const lease = async (limit = 1000) => await leaseDeliveries(sql, [id], [limit]);
  let { leases, waits } = await lease();
  t.equal(leases.length, 5, "the burst");
  t.match(waits, [{ webhook_id: id }], "and when the next may go");
  const [wait] = waits;
  t.ok(wait!.wait_ms > 0 && wait!.wait_ms <= 100, `${wait?.wait_ms} ms`);
  t.equal((await leaseDeliveries(sql, [other.id], [1000])).leases.length, 100);

  // Some time has passed since; no test can say how much.
  await pass(sql, 0.15);
  ({ leases } = await lease());
  t.ok(leases.length >= 3, `${leases.length} of at least 3`);
  await pass(sql, 60);
  t.equal((await lease()).leases.length, 5, "what was not used is not saved up");

  await pass(sql, 60);
  ({ leases, waits } = await lease(2));
  t.equal(leases.length, 2);
  t.strictSame(waits, [], "there is more, but nothing to wait for");
  t.strictSame((await sql`select from webhookpub.attempts`).count, 0);

  await sql`update webhookpub.webhooks set max_per_second = 0.01 where id = ${id}`;
  await sql`update webhookpub.paces set spent_until = now() + interval '100 seconds'`;
  const [log] = await sql`
    select distinct waits_for from webhookpub.delivery_log
    where webhook_id = ${id} and attempts = 0`;
  t.strictSame(log, { waits_for: "pace" });
  const [health] = await sql`
    select waits_for, max_per_second::float8, ordered from webhookpub.webhook_health
    where webhook_id = ${id}`;
  t.strictSame(health, { waits_for: "pace", max_per_second: 0.01, ordered: false });
  await sql`select webhookpub.update_webhook(${id}, p_max_per_second => 'infinity')`;
  t.ok((await lease()).leases.length > 20, "without a pace all goes");
});

void t.test("slow paces", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { maxPerSecond: 0.1 });
  await publish(sql, { count: 3 });
  await fanOutAll(sql);
  const { leases, waits } = await leaseDeliveries(sql, [id], [10]);
  t.equal(leases.length, 1, "one request is always saved up");
  t.ok(waits[0]!.wait_ms > 9000 && waits[0]!.wait_ms <= 10_000, `${waits[0]?.wait_ms} ms`);
  t.strictSame((await leaseDeliveries(sql, [id], [10])).leases, []);
  for (const bad of [0, -1, 0.0001, 10_001]) {
    await t.rejects(createWebhook(sql, { maxPerSecond: bad }), {
      code: "WH010",
      message: `max_per_second ${bad} must be 0.001 to 10000, or infinity for none`,
    });
  }
});

void t.test("another pace counts at once", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const { id } = await createWebhook(sql, { url: receiver.url(), maxPerSecond: 0.001 });
  await publish(sql, { count: 150 });
  await startWorkerProcess(t, url);
  await receiver.received(1);
  await until(
    async () => (await sql`select from webhookpub.deliveries where attempts > 0`).count === 1,
    "the burst",
  );
  await sql`select webhookpub.update_webhook(${id}, p_max_per_second => 100)`;
  // By the old pace the second would come after 1,000 seconds.
  await receiver.received(150);
  await until(async () => (await sql`select from webhookpub.queue`).count === 0, "their records");
  const [took] = await sql<[{ seconds: number }]>`
    select extract(epoch from max(a.started_at) - min(a.started_at) filter (where a.n > 1))::float8
      as seconds
    from (
      select a.started_at, row_number() over (order by a.started_at) as n from webhookpub.attempts as a
    ) as a`;
  t.ok(took.seconds > 1.1, `${took.seconds} s, and by the new one`);
});

void t.test("what was spent by a slower pace, or another clock, is in nobody's way", async (t) => {
  const { sql } = await testDatabase(t);
  for (const rate of [0.5, 100]) {
    const { id } = await createWebhook(sql, { userId: `user_${rate}`, maxPerSecond: 0.001 });
    await publish(sql, { userId: `user_${rate}`, count: 5 });
    await fanOutAll(sql);
    t.equal((await leaseDeliveries(sql, [id], [10])).leases.length, 1);
    await sql`delete from graphile_worker._private_jobs`;
    // It adds no job: that would be an error where somebody has changed it since.
    await sql.begin("isolation level repeatable read", async (old) => {
      await old`select webhookpub.update_webhook(${id}, p_max_per_second => ${rate})`;
    });
    await sql`select webhookpub.wake(null)`;
    t.equal((await sql`select from graphile_worker.jobs where key = ${id}`).count, 1, `${rate}/s`);
    const { leases, waits } = await leaseDeliveries(sql, [id], [10]);
    t.equal(leases.length, 1, "one goes");
    t.ok(waits[0]!.wait_ms <= 2000, `and the next after ${waits[0]?.wait_ms} ms`);
  }
});

void t.test("whoever deletes a webhook holds up no lease of another", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { maxPerSecond: 100 });
  const other = await createWebhook(sql);
  await publish(sql);
  await fanOutAll(sql);
  t.equal((await leaseDeliveries(sql, [id, other.id], [9, 9])).leases.length, 2);
  const open = session();
  await open`begin`;
  await open`select webhookpub.delete_webhook(${id})`;
  await publish(sql);
  await fanOutAll(sql);
  const worker = session();
  await worker`set lock_timeout = '1s'`;
  const { leases } = await leaseDeliveries(worker, [id, other.id], [9, 9]);
  t.ok(
    leases.some((lease) => lease.webhook_id === other.id),
    "while that is open",
  );
  await open`commit`;

  const removed = "select webhookpub.delete_webhooks(p_now => now() + interval '1 year') as count";
  t.strictSame([...(await sql.unsafe(removed))], [{ count: "0" }], "its history is kept");
  await sql`delete from webhookpub.delivery_history where webhook_id = ${id}`;
  t.strictSame([...(await sql.unsafe(removed))], [{ count: "1" }]);
  t.equal((await sql`select from webhookpub.paces`).count, 0, "its pace goes with it");
});

void t.test("two workers keep the pace together", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const rate = 50;
  const { id } = await createWebhook(sql, {
    url: receiver.url(),
    maxPerSecond: rate,
    maxInFlight: 100,
  });
  await publish(sql, { count: 300 });
  await Promise.all([startWorkerProcess(t, url), startWorkerProcess(t, url)]);
  await receiver.received(300);
  await until(async () => (await sql`select from webhookpub.queue`).count === 0, "their records");
  const times = receiver.requests.map(({ at }) => at);
  // By the database's clock: a receiver that is held up gets some at once.
  const [pace] = await sql<[{ most: number; first: number }]>`
    with a as (
      select extract(epoch from a.started_at)::float8 as at
      from webhookpub.deliveries as d join webhookpub.attempts as a on a.delivery_id = d.id
      where d.webhook_id = ${id}
    )
    select
      max((select count(*) from a as b where b.at >= a.at and b.at < a.at + 1))::integer as most,
      (max(a.at) - min(a.at)) as first
    from a`;
  t.ok(pace.most <= rate * 1.25 + 1, `${pace.most} in a second`);
  t.ok(times.length === 300);
  const [log] = await sql`
    select count(*)::integer as attempts from webhookpub.attempts`;
  t.strictSame(log, { attempts: 300 }, "no attempt is burned");
});
