import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { startReceiver } from "../support/receiver.ts";
import { tablesReadThrough } from "../support/plans.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

void t.test("a tick does not read what has been due for long", async (t) => {
  const { sql, session } = await testDatabase(t);
  const ticker = session();
  const wake = () => ticker`select webhookpub.wake('10 minutes')`;
  await createWebhook(sql, { userId: "healthy" });
  await createWebhook(sql, { userId: "late", maxInFlight: 1 });
  await createWebhook(sql, { userId: "late", maxInFlight: 1 });
  // Often enough for plans that the session keeps, of when the tables were empty.
  await sql`analyze webhookpub.queue, webhookpub.delivery_history`;
  for (let i = 0; i < 12; i += 1) {
    await publish(sql, { userId: "healthy" });
    await sql`select webhookpub.fan_out()`;
    await wake();
    await sql`
      select webhookpub.end_deliveries(array(select delivery_id from webhookpub.queue), 'cancelled')`;
  }
  await publish(sql, { userId: "late", count: 10_000 });
  await fanOutAll(sql);
  await sql`
    update webhookpub.queue set due_at = now() - interval '1 hour'`;
  await sql`
    select from webhookpub.lease_deliveries(array(
      select id from webhookpub.webhooks where user_id = 'late'
    ))`;
  await publish(sql, { userId: "healthy" });
  await sql`select webhookpub.fan_out()`;
  await sql`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;

  await ticker`begin`;
  await wake();
  const [read] = await ticker<[{ rows: number }]>`
    select (seq_tup_read + idx_tup_fetch)::integer as rows
    from pg_stat_xact_user_tables where relid = 'webhookpub.queue'::regclass`;
  await ticker`commit`;
  t.ok(read.rows < 1000, `${read.rows} rows of 20,000`);
  t.equal(
    (await sql`select from graphile_worker.jobs where key <> 'webhook_maintain'`).count,
    1,
    "the healthy one is woken",
  );
});

void t.test("while deliver_enabled is false nothing adds jobs for deliveries", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await sql`update webhookpub.settings set deliver_enabled = false`;
  const [event = ""] = await publish(sql);
  await sql`select webhookpub.fan_out()`;
  const jobs = async () => (await sql`select from webhookpub.jobs where webhook_id = ${id}`).count;
  for (const query of [
    "select webhookpub.wake('10 seconds')",
    "select webhookpub.wake()",
    `select webhookpub.test_webhook('${id}')`,
    `select webhookpub.redeliver('${event}')`,
  ]) {
    await sql.unsafe(query);
    t.equal(await jobs(), 0, query);
  }
  t.equal((await sql`select from webhookpub.queue`).count, 3, "it waits");
  // Long due by then.
  await sql`update webhookpub.queue set due_at = now() - interval '1 hour'`;
  await sql`update webhookpub.settings set deliver_enabled = true`;
  await sql`select webhookpub.wake('10 seconds')`;
  t.equal(await jobs(), 1, "and the next tick finds all of it");
});

for (const level of ["repeatable read", "serializable"]) {
  void t.test(
    `under ${level} a job that changed meanwhile is no error of the caller's`,
    async (t) => {
      const { sql } = await testDatabase(t);
      const steering = {
        redeliver: "select from webhookpub.redeliver($1, $2)",
        redeliver_since:
          "select webhookpub.redeliver_since($2, now() - interval '1 hour', p_only_failed => $1 = '')",
        test_webhook: "select webhookpub.test_webhook($2) where $1 <> ''",
        enable_webhook: "select webhookpub.enable_webhook($2) where $1 <> ''",
        update_webhook:
          "select webhookpub.update_webhook($2, p_max_in_flight => 30) where $1 <> ''",
      };
      for (const [name, query] of Object.entries(steering)) {
        const { id } = await createWebhook(sql, { userId: name });
        const [event = ""] = await publish(sql, { userId: name });
        await sql`select webhookpub.fan_out()`;
        await sql`
        update webhookpub.delivery_history set status = 'delivered', delivered_at = now()
        where webhook_id = ${id}`;
        await sql`delete from webhookpub.queue where webhook_id = ${id}`;
        if (name === "enable_webhook") await sql`select webhookpub.disable_webhook(${id})`;
        await t.resolves(
          sql.begin(`isolation level ${level}`, async (tx) => {
            await tx`select from graphile_worker.jobs`;
            await sql`
            update graphile_worker._private_jobs set run_at = now() + interval '1 hour'
            where key = ${id}`;
            await tx.unsafe(query, [event, id]);
          }),
          name,
        );
      }
      await sql`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;
      await sql`select webhookpub.wake('1 hour')`;
      const woken = await sql`select from webhookpub.jobs where webhook_id is not null`;
      t.equal(woken.count, 3, "the tick finds what waits");
    },
  );
}

void t.test("what ticks do not come to, a worker finds soon", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await startWorkerProcess(t, url);
  await createWebhook(sql, { url: receiver.url() });
  await publish(sql);
  await receiver.received(1);

  // Due for long, and no job says so.
  await sql.begin(async (tx) => {
    await publish(tx);
    await tx`select webhookpub.fan_out()`;
    await tx`
      update webhookpub.queue set due_at = now() - interval '1 hour'`;
    await tx`
      select graphile_worker.complete_jobs(array(
        select id from graphile_worker.jobs where task_identifier = 'webhook_deliver'
      ))`;
  });
  await receiver.received(2);
});

void t.test("what was committed long after it became due waits for no sweep", async (t) => {
  const { sql, url, session } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await startWorkerProcess(t, url);
  await createWebhook(sql, { url: receiver.url() });
  await publish(sql);
  await receiver.received(1);

  const sweep = session();
  await sweep`begin`;
  await sweep`select from webhookpub.sweep for update`;
  await sql.begin(async (tx) => {
    await tx`select webhook_publish('email.received', 'user_1', '{}')`;
    // As if it had been open for so long.
    await tx`
      update webhookpub.queue set due_at = clock_timestamp() - interval '10 seconds'`;
  });
  await receiver.received(2);
  await sweep`rollback`;
});

void t.test("the sweep comes to all webhooks, some at a time", async (t) => {
  const { sql, session } = await testDatabase(t);
  const ids: string[] = [];
  for (let i = 0; i < 7; i += 1) ids.push((await createWebhook(sql)).id);
  await createWebhook(sql, { userId: "idle" });
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  const [{ now }] = await sql<[{ now: string }]>`select clock_timestamp() as now`;
  const step = async (by: Sql, { atOnce = false, after = "0 s" } = {}) => {
    const [row] = await by<[{ swept: string[] | null }]>`
      select webhookpub.sweep_webhooks(
        ${atOnce}, ${now}::timestamptz + ${after}::interval, 3
      ) as swept`;
    return row.swept;
  };
  const all = ids.toSorted();
  t.strictSame(await step(sql), all.slice(0, 3));
  t.equal(await step(sql, { after: "0.2 s" }), null, "then it rests");
  t.strictSame(await step(sql, { after: "1 s" }), all.slice(3, 6));

  const other = session();
  await other`begin`;
  t.strictSame(await step(other, { atOnce: true }), all.slice(6), "it goes on where it was");
  t.equal(await step(sql, { atOnce: true }), null, "others do not wait for it");
  await other`rollback`;
  t.strictSame(await step(sql, { atOnce: true }), all.slice(6), "a step that fails is repeated");
  t.equal(await step(sql, { after: "15 s" }), null, "at the end it rests longer");
  t.strictSame(await step(sql, { after: "21 s" }), all.slice(0, 3), "and begins again");
  await sql`update webhookpub.sweep set next_at = 'infinity'`;
  t.strictSame(await step(sql), all.slice(3, 6), "also if the clock was set back");
});

void t.test("a webhook's job is looked up by its key, however many jobs there are", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await sql`
    select count(*) from graphile_worker.add_jobs(array(
      select row('foreign', '{}'::json, null, null, null, 'foreign ' || n, null, null)
        ::graphile_worker.job_spec
      from generate_series(1, 5000) as n
    ))`;
  await sql`update webhookpub.queue set due_at = now() - interval '1 minute'`;
  await sql`delete from graphile_worker._private_jobs where key = ${id}`;

  const ticker = session();
  await ticker`begin`;
  // Their collation is that of the column, which is not that of the jobs' keys.
  await ticker`
    select webhookpub.add_deliver_jobs(array(select w.id from webhookpub.webhooks as w))`;
  await ticker`select webhookpub.wake()`;
  t.strictSame(await tablesReadThrough(ticker, { byIndex: true }), []);
  await ticker`commit`;
  t.equal((await sql`select from graphile_worker.jobs where key = ${id}`).count, 1);
});
