// The views: what they say, and that they say it at once however much has happened.
import t from "tap";
import { type TestDatabase, testDatabase } from "../support/database.ts";
import { writeHistory } from "../support/history.ts";
import { createLogin } from "../support/login.ts";
import { explained } from "../support/plans.ts";
import { usualQuestions } from "../support/questions.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import type { AnySql } from "../support/named.ts";

/** Leases what is due for some webhooks, and answers with this status; null: not at all. */
async function attemptAll(
  sql: AnySql,
  webhookIds: readonly string[],
  status: number | null,
  { durationMs = 7 }: { durationMs?: number } = {},
): Promise<void> {
  const leased = sql`webhookpub.lease_deliveries(${webhookIds as string[]})`;
  if (status === null) await sql`select from ${leased}`;
  else {
    await sql`
      select webhookpub.record_attempts(
        array[l.delivery_id], array[l.attempt], array[l.started_at], array[${durationMs}::int],
        array['responded'], array[${status}::int], array[null], array['body'], array[null]
      )
      from ${leased} as l`;
  }
}

/** The metrics, by name and labels. */
async function metrics({ sql }: TestDatabase): Promise<Record<string, number>> {
  const rows = await sql<{ name: string; value: number }[]>`
    select concat(m.name, nullif(m.labels::text, '{}')) as name, m.value::float8
    from webhookpub.metrics as m`;
  return Object.fromEntries(rows.map(({ name, value }) => [name, value]));
}

void t.test("event_log: what was published and what became of it, newest first", async (t) => {
  const { sql } = await testDatabase(t);
  const [good, bad] = [await createWebhook(sql), await createWebhook(sql)];
  const [first = ""] = await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await attemptAll(sql, [good.id], 200);
  await attemptAll(sql, [bad.id], 410);
  await sql`select * from webhookpub.redeliver(${first}, ${good.id})`;
  const [other = ""] = await publish(sql, { userId: "user_2" });
  await sql`select webhookpub.fan_out()`;
  const [stuck = ""] = await publish(sql);
  await sql`
    update webhookpub.events set attempts = 1, last_error = 'no', retry_at = now() + interval '1 h'
    where id = ${stuck}`;

  const log = await sql`
    select event_id, user_id, event_type, status, deliveries, last_error from webhookpub.event_log`;
  t.match(
    [...log].filter(({ event_type }) => event_type === "email.received"),
    [
      { event_id: stuck, status: "pending", deliveries: null, last_error: "no" },
      { event_id: other, user_id: "user_2", status: "no_match", deliveries: null },
      {
        event_id: first,
        user_id: "user_1",
        status: "processed",
        deliveries: { delivered: 1, failed: 1, pending: 1 },
        last_error: null,
      },
    ],
  );
  const [kept] = await sql`
    select l.*, e.type from webhookpub.event_log as l
    join webhookpub.events as e on e.id = l.event_id
    where l.event_id = ${first}`;
  t.strictSame(kept?.["matched_webhook_ids"], [good.id, bad.id].toSorted());
  t.equal(
    (await sql`select from webhookpub.event_log`).count,
    (await sql`select from webhookpub.events`).count,
    "every event once",
  );
});

void t.test("delivery_log: each delivery, and what a pending one waits for", async (t) => {
  const { sql } = await testDatabase(t);
  const webhooks: Record<string, string> = {};
  const url = (state: string) => `https://receiver.example/${state.replace(" ", "-")}`;
  const states = [
    "answer",
    "enabled webhook",
    "next attempt",
    "closed circuit",
    "worker",
    "delivered",
    "failed",
    "cancelled",
  ];
  for (const state of states) {
    // What waits does so for longer than any machine needs until it is looked at.
    const options = { retrySchedule: "{1 h}", requestTimeout: "30 s" };
    webhooks[state] = (await createWebhook(sql, { url: url(state), ...options })).id;
  }
  const of = (state: string) => webhooks[state] ?? "";
  const [event = ""] = await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await attemptAll(sql, [of("answer")], null);
  await sql`select webhookpub.disable_webhook(${of("enabled webhook")})`;
  await attemptAll(sql, [of("next attempt")], 500);
  await sql`
    update webhookpub.webhooks
    set unanswered = 5, circuit_opened_at = now(), circuit_retry_at = now() + interval '1 h'
    where id = ${of("closed circuit")}`;
  await attemptAll(sql, [of("delivered")], 204);
  await attemptAll(sql, [of("failed")], 410);
  await sql`select webhookpub.delete_webhook(${of("cancelled")})`;

  const log = await sql<{ url: string; state: string }[]>`
    select l.url, coalesce(l.waits_for, l.status) as state
    from webhookpub.delivery_log as l
    where l.event_id = ${event}`;
  t.strictSame(
    new Map(log.map((row) => [row.url, row.state])),
    new Map(log.map((row) => [row.url, states.find((state) => url(state) === row.url)])),
  );
  t.equal(log.length, states.length);
  t.match(
    [...(await sql`select * from webhookpub.delivery_log where webhook_id = ${of("failed")}`)],
    [{ user_id: "user_1", event_type: "email.received", attempts: 1, last_error: "HTTP 410" }],
  );

  await sql`select pg_sleep(0.002)`;
  await sql`select * from webhookpub.redeliver(${event}, ${of("delivered")})`;
  const [newest] = await sql`select * from webhookpub.delivery_log limit 1`;
  t.match(newest, { webhook_id: of("delivered"), status: "pending", replay_id: /^rpl_/ });
});

void t.test("webhook_health: how each webhook does, lately", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { maxInFlight: 1000, retrySchedule: "{1 h}" });
  const gone = await createWebhook(sql);
  await sql`select webhookpub.delete_webhook(${gone.id})`;
  const [empty] = await sql`select * from webhookpub.webhook_health`;
  t.match(empty, {
    webhook_id: id,
    recent_attempts: "0",
    success_rate: null,
    p95_duration_ms: null,
    pending: "0",
    oldest_pending: null,
  });

  // 120 old ones fail, and what is long past; of the last 100, 95 succeed.
  const attempts = async (count: number, status: number, durationMs: number) => {
    await publish(sql, { count });
    await sql`select webhookpub.fan_out()`;
    await attemptAll(sql, [id], status, { durationMs });
  };
  await sql`
    insert into webhookpub.attempts
      (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error, webhook_id)
    values ('whd_old', 1, now() - interval '25 hours', 1, 'responded', 500, 'past', ${id})`;
  await attempts(120, 500, 9000);
  await attempts(5, 500, 40);
  await attempts(94, 200, 20);
  await attempts(1, 200, 30);
  await publish(sql, { count: 3 });
  await sql`select webhookpub.fan_out()`;
  await attemptAll(sql, [id], null);
  const [health] = await sql`select * from webhookpub.webhook_health`;
  t.match(health, {
    recent_attempts: "100",
    success_rate: "0.950",
    p95_duration_ms: 30,
    last_error: "HTTP 500",
    pending: "128",
    in_flight: "3",
    max_in_flight: 1000,
    enabled: true,
    failing_since: null,
  });
  t.ok(health?.["oldest_pending"], "since the first failure");
});

void t.test("backlog and metrics: what waits, and for how long", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  const backlog = async () => (await sql`select * from webhookpub.backlog`)[0];
  t.match(await backlog(), { events_pending: "0", oldest_event: null, deliveries_pending: "0" });

  const { id } = await createWebhook(sql, { retrySchedule: "{1 h}" });
  const held = await createWebhook(sql);
  await publish(sql, { count: 3 });
  await sql`update webhookpub.events set created_at = created_at - interval '1 minute'`;
  await sql`update webhookpub.events set retry_at = now(), last_error = 'x' where id = (select min(id) from webhookpub.events)`;
  t.match(await backlog(), { events_pending: "3", events_failing: "1", oldest_event: /^00:01:/ });
  t.match(await metrics(database), {
    events_pending: 3,
    events_failing: 1,
    deliveries_pending: 0,
    delivery_lag_seconds: 0,
    attempts_total: 0,
    webhooks_enabled: 2,
  });
  await sql`update webhookpub.events set last_error = null`;
  const { publisher_lag_seconds: lag = 0 } = await metrics(database);
  t.ok(lag >= 60 && lag < 3600, `${lag} s`);

  await sql`update webhookpub.events set retry_at = null`;
  await sql`select webhookpub.fan_out()`;
  await sql`select webhookpub.disable_webhook(${held.id})`;
  await sql`
    update webhookpub.queue set due_at = due_at - interval '1 hour'
    where webhook_id = ${held.id}`;
  await sql`
    update webhookpub.queue set due_at = due_at - interval '2 minutes'
    where webhook_id = ${id}`;
  t.match(
    await backlog(),
    {
      events_pending: "0",
      deliveries_pending: "6",
      deliveries_due: "3",
      oldest_due: /^00:02:/,
      deliveries_in_flight: "0",
    },
    "what is held for a disabled webhook is pending, but not due",
  );
  await sql`select from webhookpub.lease_deliveries(${[id]}, array[1])`;
  t.match(await backlog(), { deliveries_due: "2", deliveries_in_flight: "1" });
  await attemptAll(sql, [id], 500);
  t.match(await backlog(), { deliveries_due: "0", deliveries_pending: "6", oldest_due: null });
  t.match(await metrics(database), {
    attempts_total: 2,
    webhooks_failing: 1,
    webhooks_disabled: 1,
  });
});

void t.test("attempts_total goes on when attempts have left", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  const { id } = await createWebhook(sql);
  await publish(sql, { count: 2 });
  await sql`select webhookpub.fan_out()`;
  await attemptAll(sql, [id], 200);
  t.match(await metrics(database), { attempts_total: 2 });
  // One day a call.
  await sql`
    select webhookpub.drop_partitions('webhookpub.attempts', 'infinity')
    from generate_series(1, 16)`;
  t.equal((await sql`select from webhookpub.attempts`).count, 0);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await attemptAll(sql, [id], 200);
  t.match(await metrics(database), { attempts_total: 3 });
});

void t.test("counts of what waits stop at 10,000", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  await createWebhook(sql);
  await publish(sql, { count: 10_050 });
  t.match(await metrics(database), { events_pending: 10_000 });
  await fanOutAll(sql);
  t.match(await metrics(database), { deliveries_due: 10_000 });
  await sql`analyze webhookpub.queue`;
  t.match(
    await metrics(database),
    { deliveries_pending: 10_050, deliveries_due: 10_000 },
    "but for all that are pending there is an estimate",
  );
});

void t.test("no usual question reads a table through, whoever asks", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  await writeHistory(sql, { events: 20_000, users: 100, days: 25 });
  await sql`vacuum analyze`;
  const questions = await usualQuestions(sql);
  t.ok(questions.length > 10);
  const reader = await createLogin(t, database, "webhookpub_readonly");
  const tenant = await createLogin(t, database, "webhookpub_tenant");
  await sql`
    insert into webhookpub.tenants
    values (${tenant.role}, ${questions[0]?.user ?? null})`;
  // Nothing leads from a user to events that wait, and tenants may read none of the sums.
  const forTenant = questions.filter(({ what }) => /^(?:delivery_log|webhook_health)/.test(what));
  t.ok(forTenant.length > 3);
  for (const { session, asked } of [
    { session: sql, asked: questions },
    { session: reader.sql, asked: questions },
    { session: tenant.sql, asked: forTenant },
  ]) {
    for (const { what, query } of asked) {
      const { rows, buffers, readThrough } = await explained(session, query);
      t.ok(rows > 0, `${what}: ${rows} rows`);
      t.strictSame(readThrough, [], what);
      t.ok(buffers < 3000, `${what}: ${buffers} pages`);
    }
    for (const view of ["event_log", "delivery_log"]) {
      const query = `select * from webhookpub.${view} where user_id = 'nobody' limit 50`;
      const { rows, readThrough } = await explained(session, query);
      t.equal(rows, 0);
      if (session !== tenant.sql) t.strictSame(readThrough, [], `${view} of nobody`);
    }
  }
});
