import t, { type Test } from "tap";
import { answerTo } from "../../src/deliver/answer.ts";
import type { Sql } from "../../src/database/connect.ts";
import { type Lease, recordAttempts } from "../../src/database/calls.ts";
import { leaseDeliveries } from "../support/leases.ts";
import { testDatabase } from "../support/database.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** Deliveries that two workers in a row were lost with, of webhooks that they are shared by. */
async function suspects(
  t: Test,
  { webhooks, count, url }: { webhooks: number; count: number; url?: string },
) {
  const database = await testDatabase(t);
  const { sql } = database;
  for (let i = 0; i < webhooks; i += 1) {
    await createWebhook(sql, {
      userId: `user_${i}`,
      maxInFlight: 1000,
      // Longer than any machine needs for a test.
      requestTimeout: "30 s",
      ...(url === undefined ? {} : { url }),
    });
    await publish(sql, { userId: `user_${i}`, count: count / webhooks });
  }
  await fanOutAll(sql);
  for (const _loss of [1, 2]) {
    const leases = await leaseDue(sql);
    t.equal(leases.length, count);
    await loseLeases(sql);
  }
  await takeJobs(sql);
  return database;
}

/** What there is of the webhooks of these jobs, or of all. */
async function leaseDue(sql: Sql, webhookIds?: readonly string[]): Promise<Lease[]> {
  const ids =
    webhookIds ??
    (await sql<{ id: string }[]>`select id from webhookpub.webhooks`).map(({ id }) => id);
  return [
    ...(await leaseDeliveries(
      sql,
      ids,
      ids.map(() => 1000),
    )),
  ];
}

/** As if the worker had died and time had passed. */
async function loseLeases(sql: Sql): Promise<void> {
  await sql`
    update webhookpub.queue set due_at = clock_timestamp() where leased`;
}

/** Takes all jobs, and completes them at once; the webhooks that they are for. */
async function takeJobs(sql: Sql): Promise<string[]> {
  const jobs = await sql<{ id: string; key: string }[]>`
    select id, key from graphile_worker.jobs where task_identifier = 'webhook_deliver'`;
  await sql`select graphile_worker.complete_jobs(${jobs.map(({ id }) => id)}::bigint[])`;
  return jobs.map(({ key }) => key);
}

async function deliver(sql: Sql, leases: readonly Lease[]): Promise<void> {
  await recordAttempts(
    sql,
    leases.map((leased) =>
      answerTo(leased, { kind: "responded", statusCode: 200, body: "", retryAfter: null }, 1),
    ),
  );
}

async function states(sql: Sql) {
  return [
    ...(await sql`
      select status, count(*)::integer as n
      from webhookpub.deliveries where event_type <> 'webhook.delivery_failed'
      group by 1 order by 1`),
  ];
}

void t.test("one wake is enough for a thousand innocent ones of many webhooks", async (t) => {
  const { sql } = await suspects(t, { webhooks: 250, count: 1000 });
  await sql`select webhookpub.wake('1 second')`;
  let calls = 0;
  let largest = 0;
  for (let jobs = await takeJobs(sql); jobs.length > 0; jobs = await takeJobs(sql)) {
    const leases = await leaseDue(sql, jobs);
    calls += 1;
    largest = Math.max(largest, leases.length);
    await deliver(sql, leases);
  }
  t.strictSame(await states(sql), [{ status: "delivered", n: 1000 }]);
  t.ok(calls < 100, `by ${calls} leases`);
  t.equal(largest, 100, "never more than a tenth at once");
});

void t.test("whoever ends makes room for another", async (t) => {
  const { sql } = await suspects(t, { webhooks: 10, count: 100 });
  const slow = await leaseDue(sql);
  t.equal(slow.length, 10);
  t.equal((await leaseDue(sql)).length, 0, "no more beside them");
  for (let left = 99; left > 0; left -= 1) {
    // One of them takes long.
    await deliver(sql, slow.splice(1, 1));
    slow.push(...(await leaseDue(sql, await takeJobs(sql))));
    t.equal(slow.length, Math.max(Math.ceil(left / 10), Math.min(slow.length, 1)), `${left} left`);
    if (slow.length === 1) break;
  }
});

void t.test("the one that kills its worker is found and parked, and no other", async (t) => {
  const { sql } = await suspects(t, { webhooks: 10, count: 200 });
  const [poison] = await sql<[{ id: string }]>`
    select delivery_id as id from webhookpub.queue order by due_at, delivery_id limit 1`;
  let deaths = 2;
  const trials: number[] = [];
  for (let open = true; open;) {
    await sql`select webhookpub.wake('1 minute')`;
    const leases = await leaseDue(sql, await takeJobs(sql));
    if (leases.some(({ delivery_id }) => delivery_id === poison.id)) {
      deaths += 1;
      trials.push(leases.length);
      await loseLeases(sql);
    } else {
      await deliver(sql, leases);
    }
    open = (await sql`select from webhookpub.deliveries where status = 'pending'`).count > 0;
  }
  t.strictSame(await states(sql), [
    { status: "delivered", n: 199 },
    { status: "failed", n: 1 },
  ]);
  t.strictSame(trials, [20, 1], "with a tenth of them, then alone");
  t.equal(deaths, 4);
  const parked =
    await sql`select id, last_error from webhookpub.deliveries where status = 'failed'`;
  t.strictSame([...parked], [{ id: poison.id, last_error: "parked: its worker was lost 4 times" }]);
});

void t.test("those that can't be tried hold up no other", async (t) => {
  const { sql } = await suspects(t, { webhooks: 10, count: 200 });
  // Nothing goes to most of them, and theirs are the first.
  await sql`
    update webhookpub.webhooks set circuit_opened_at = now(), circuit_retry_at = 'infinity'
    where user_id < 'user_7'`;
  await sql`
    update webhookpub.queue as q set due_at = now() - interval '1 minute'
    from webhookpub.webhooks as w where w.id = q.webhook_id and w.circuit_retry_at > now()`;
  await sql`select webhookpub.wake('1 second')`;
  for (let jobs = await takeJobs(sql); jobs.length > 0; jobs = await takeJobs(sql)) {
    await deliver(sql, await leaseDue(sql, jobs));
  }
  t.match(await states(sql), [
    { status: "delivered", n: 60 },
    { status: "pending", n: 140 },
  ]);
});

void t.test("no answer waits for an application that has added a job", async (t) => {
  const { sql, session } = await suspects(t, { webhooks: 1, count: 2 });
  const [{ id }] = await sql<[{ id: string }]>`select id from webhookpub.webhooks`;
  const application = session();
  await application`begin`;
  await application`select webhookpub.add_deliver_jobs(${[id]})`;
  const leases = await leaseDue(sql);
  t.equal(leases.length, 1);
  await deliver(sql, leases);
  t.match(await states(sql), [
    { status: "delivered", n: 1 },
    { status: "pending", n: 1 },
  ]);
  await application`rollback`;
});

void t.test("a worker delivers them all", async (t) => {
  const receiver = await startReceiver(t);
  const { sql, url } = await suspects(t, { webhooks: 50, count: 500, url: receiver.url() });
  await startWorkerProcess(t, url);
  const begun = performance.now();
  await until(
    async () =>
      (await sql`select from webhookpub.deliveries where status = 'delivered'`).count === 500,
    "500 delivered",
  );
  t.comment(`within ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  t.equal(receiver.requests.length, 500);
  t.match(await states(sql), [{ status: "delivered", n: 500 }]);
});
