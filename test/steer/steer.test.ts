// Replays, tests of a webhook, and what best effort could not publish.
import { Webhook } from "standardwebhooks";
import t from "tap";
import { answerTo } from "../../src/deliver/answer.ts";
import type { Sql } from "../../src/database/connect.ts";
import { recordAttempts } from "../../src/database/calls.ts";
import { leaseRequests } from "../support/leases.ts";
import { testDatabase } from "../support/database.ts";
import { type AnySql, type Arguments, named } from "../support/named.ts";
import { tablesReadThrough } from "../support/plans.ts";
import { publishBy } from "../support/publish.ts";
import { startReceiver } from "../support/receiver.ts";
import { refused } from "../support/refused.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { backendOf, untilBlocked } from "../support/waiting.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

interface Replay {
  readonly webhook_id: string;
  readonly delivery_id: string | null;
  readonly outcome: string;
  readonly reason: string | null;
}

const redeliver = async (sql: AnySql, eventId: string | null, webhookId?: string | null) => [
  ...(await sql<Replay[]>`
    select * from webhookpub.redeliver(${named(sql, { p_event_id: eventId, p_webhook_id: webhookId })})`),
];

async function redeliverSince(sql: AnySql, webhookId: string | null, args: Arguments = {}) {
  const all = { p_webhook_id: webhookId, p_since: "epoch", p_until: "infinity", ...args };
  const [row] = await sql<[{ count: string }]>`
    select webhookpub.redeliver_since(${named(sql, all)}) as count`;
  return Number(row.count);
}

async function testWebhook(sql: AnySql, webhookId: string | null, type?: string | null) {
  const args = { p_webhook_id: webhookId, p_event_type: type };
  const [row] = await sql<[{ id: string }]>`
    select webhookpub.test_webhook(${named(sql, args)}) as id`;
  return row.id;
}

async function eventOf(sql: Sql, deliveryId: string): Promise<string> {
  const [row] = await sql<[{ event_id: string }]>`
    select event_id from webhookpub.deliveries where id = ${deliveryId}`;
  return row.event_id;
}

async function retryFailures(sql: AnySql, limit?: number | null): Promise<number> {
  const [row] = await sql<[{ count: string }]>`
    select webhookpub.retry_publish_failures(${named(sql, { p_limit: limit ?? 100 })}) as count`;
  return Number(row.count);
}

const fanOut = (sql: AnySql) => sql`select webhookpub.fan_out(p_limit => 10000)`;

/** Answers every request that is due for a webhook; returns them. */
async function answerAll(sql: Sql, webhookId: string, statusCode: number) {
  const leases = await leaseRequests(sql, [webhookId], [1000]);
  const outcome = { kind: "responded", statusCode, body: "", retryAfter: null } as const;
  await recordAttempts(
    sql,
    leases.map((leased) => answerTo(leased, outcome, 1)),
  );
  return [...leases];
}

async function deliveriesOf(sql: Sql, webhookId: string) {
  return [
    ...(await sql<{ id: string; event_id: string; replay_id: string | null; status: string }[]>`
      select id, event_id, replay_id, status
      from webhookpub.deliveries where webhook_id = ${webhookId} order by created_at, id`),
  ];
}

/** Everything that steering may write. */
async function state(sql: Sql): Promise<unknown> {
  const [row] = await sql`
    select
      (select json_agg(d order by d.id) from webhookpub.deliveries as d) as deliveries,
      (select json_agg(n order by n.event_id) from webhookpub.envelopes as n) as envelopes,
      (select json_agg(f order by f.id) from webhookpub.publish_failures as f) as failures,
      (select count(*) from graphile_worker.jobs) as jobs`;
  return row;
}

/** Forgets the bytes of every event, as dropping the partitions of their day does. */
const expireEnvelopes = (sql: Sql) => sql`truncate webhookpub.envelopes`;

// redeliver ---------------------------------------------------------------------------

void t.test("a replay has the same bytes and event id, and today's secret and URL", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const eventId = await publishBy("webhook_publish_tx", sql, {
    message_id: "msg_1",
    data: '{"b": 1.50, "a": "Grüße"}',
  });
  await fanOut(sql);
  const [first] = await answerAll(sql, id, 200);
  const [{ secret }] = await sql<[{ secret: string }]>`
    select webhookpub.rotate_secret(${id}, p_grace => '0') as secret`;
  await sql`
    select webhookpub.update_webhook(${id}, p_url => 'https://moved.example/',
      p_retry_schedule => '{1 s}', p_events => '{email.received}')`;

  const [replay, ...others] = await redeliver(sql, eventId);
  t.match(replay, { webhook_id: id, delivery_id: /^whd_/, outcome: "created", reason: null });
  t.strictSame(others, []);
  const jobs = await sql`select task_identifier as task, key from graphile_worker.jobs`;
  t.match([...jobs], [{ task: "webhook_deliver", key: id }], "somebody is woken");

  const [again] = await leaseRequests(sql, [id], [10]);
  t.equal(again?.delivery_id, replay?.delivery_id);
  t.not(again?.delivery_id, first?.delivery_id);
  t.equal(again?.body, first?.body, "byte for byte");
  t.equal(again?.headers["webhook-id"], eventId);
  t.equal(again?.url, "https://moved.example/");
  t.match(new Webhook(secret).verify(again!.body, again!.headers), { id: eventId });
  const [row] = await sql`
    select event_type, message_id, max_attempts, replay_id, expires_at > now() as kept
    from webhookpub.deliveries where id = ${replay?.delivery_id ?? ""}`;
  t.match(row, {
    event_type: "email.sent",
    message_id: "msg_1",
    max_attempts: 2,
    replay_id: /^rpl_[0-9a-f]{32}$/,
    kept: true,
  });
});

void t.test("a replay goes where the event went, and is never matched again", async (t) => {
  const { sql } = await testDatabase(t);
  const [changed, kept, unmatched] = await Promise.all([
    createWebhook(sql),
    createWebhook(sql),
    createWebhook(sql, { events: "{email.received}" }),
  ]);
  const eventId = await publishBy("webhook_publish_tx", sql);
  const nobodys = await publishBy("webhook_publish_tx", sql, { event_type: "email.rejected" });
  await sql`update webhookpub.webhooks set enabled = enabled`;
  await fanOut(sql);
  await sql`select webhookpub.update_webhook(${changed.id}, p_events => '{email.received}')`;
  await sql`select webhookpub.update_webhook(${unmatched.id}, p_events => '{*}')`;
  const newer = await createWebhook(sql, { events: "{*}" });

  const replays = await redeliver(sql, eventId);
  t.strictSame(
    replays.map((one) => `${one.webhook_id} ${one.outcome}`).toSorted(),
    [`${changed.id} created`, `${kept.id} created`].toSorted(),
  );
  for (const { id } of [unmatched, newer]) {
    t.match(await redeliver(sql, eventId, id), [
      { webhook_id: id, delivery_id: null, outcome: "skipped", reason: /^unmatched: / },
    ]);
    t.strictSame(await deliveriesOf(sql, id), []);
  }
  t.match(
    (await redeliver(sql, nobodys)).map((one) => one.webhook_id).toSorted(),
    [changed.id, kept.id].toSorted(),
  );
});

void t.test("one webhook can be named; the others get nothing", async (t) => {
  const { sql } = await testDatabase(t);
  const [a, b] = [await createWebhook(sql), await createWebhook(sql)];
  const eventId = await publishBy("webhook_publish_tx", sql);
  await fanOut(sql);
  t.match(await redeliver(sql, eventId, a.id), [{ webhook_id: a.id, outcome: "created" }]);
  t.equal((await deliveriesOf(sql, a.id)).length, 2);
  t.equal((await deliveriesOf(sql, b.id)).length, 1);
});

void t.test("a replay that is still pending is returned, not doubled", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { retrySchedule: "{1 h}" });
  const eventId = await publishBy("webhook_publish_tx", sql);
  await fanOut(sql);
  await answerAll(sql, id, 200);
  const [first] = await redeliver(sql, eventId);
  const before = await state(sql);
  const pending = { ...first, outcome: "pending", reason: /under way since/ };
  t.match(await redeliver(sql, eventId), [pending]);
  t.match(await redeliver(sql, eventId, id), [pending]);
  t.strictSame(await state(sql), before, "and nothing is written");

  await answerAll(sql, id, 500);
  t.match(await redeliver(sql, eventId), [pending], "nor while it waits for its next attempt");
  await sql`update webhookpub.queue set due_at = now()`;
  await answerAll(sql, id, 200);
  const [second] = await redeliver(sql, eventId);
  t.equal(second?.outcome, "created", "once it has ended, another one may follow");
  t.not(second?.delivery_id, first?.delivery_id);
});

void t.test("ten replays of the same at once make one delivery", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const eventId = await publishBy("webhook_publish_tx", sql);
  await fanOut(sql);
  await answerAll(sql, id, 200);
  const all = await Promise.all(Array.from({ length: 10 }, () => redeliver(sql, eventId)));
  const rows = all.flat();
  t.equal(rows.length, 10);
  t.equal(new Set(rows.map((row) => row.delivery_id)).size, 1, "everybody is told the same one");
  t.equal(rows.filter((row) => row.outcome === "created").length, 1);
  t.equal((await deliveriesOf(sql, id)).length, 2);
});

void t.test("whoever waits for a replay of the same takes over when it is undone", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const eventId = await publishBy("webhook_publish_tx", sql);
  await fanOut(sql);
  for (const end of ["commit", "rollback"]) {
    const [one, other] = [session(), session()];
    const pid = await backendOf(other);
    await one`begin`;
    const [first] = await redeliver(one, eventId);
    const waiting = redeliver(other, eventId);
    await untilBlocked(sql, pid);
    await one.unsafe(end);
    const [second] = await waiting;
    if (end === "commit") t.match(second, { ...first, outcome: "pending", reason: /since/ });
    else t.match(second, { webhook_id: id, outcome: "created" });
    await sql`
      select webhookpub.end_deliveries(array(select delivery_id from webhookpub.queue), 'failed')`;
  }
});

void t.test("a disabled or deleted webhook is skipped, and said to be", async (t) => {
  const { sql } = await testDatabase(t);
  const [live, disabled, deleted] = await Promise.all([
    createWebhook(sql),
    createWebhook(sql),
    createWebhook(sql),
  ]);
  const eventId = await publishBy("webhook_publish_tx", sql);
  await fanOut(sql);
  await sql`select webhookpub.disable_webhook(${disabled.id}, 'holiday')`;
  await sql`select webhookpub.delete_webhook(${deleted.id})`;
  const before = await state(sql);
  const skipped = { delivery_id: null, outcome: "skipped" };
  for (const [{ id }, reason] of [
    [disabled, "disabled: holiday"],
    [deleted, "deleted"],
  ] as const) {
    const replays = await redeliver(sql, eventId, id);
    t.strictSame(replays, [{ webhook_id: id, ...skipped, reason }]);
  }
  t.strictSame(await state(sql), before, "nothing is written");
  const all = await redeliver(sql, eventId);
  t.strictSame(Object.fromEntries(all.map((one) => [one.webhook_id, one.outcome])), {
    [live.id]: "created",
    [disabled.id]: "skipped",
    [deleted.id]: "skipped",
  });
});

void t.test("an event of the direct path is replayed to whom it went", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await createWebhook(sql, { events: "{email.received}" });
  const eventId = await publishBy("webhook_publish", sql, { message_id: "msg_1" });
  const [first] = await answerAll(sql, id, 200);
  t.match(await redeliver(sql, eventId), [{ webhook_id: id, outcome: "created" }]);
  const [again] = await answerAll(sql, id, 200);
  t.equal(again?.body, first?.body);
  t.equal(again?.headers["webhook-id"], eventId);
  t.equal(await redeliverSince(sql, id, { p_only_failed: false }), 1);
});

void t.test("an event whose bytes are gone is skipped", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const eventId = await publishBy("webhook_publish_tx", sql);
  await fanOut(sql);
  await answerAll(sql, id, 200);
  await sql`delete from webhookpub.events`;
  t.match(await redeliver(sql, eventId), [{ outcome: "created" }], "the row is not needed");
  await answerAll(sql, id, 200);
  await expireEnvelopes(sql);
  const before = await state(sql);
  t.match(await redeliver(sql, eventId), [
    { webhook_id: id, delivery_id: null, outcome: "skipped", reason: /^expired: / },
  ]);
  t.equal(await redeliverSince(sql, id, { p_only_failed: false }), 0);
  t.strictSame(await state(sql), before, "nothing is written that could never be sent");
});

void t.test("redeliver knows only what is there", async (t) => {
  const { sql } = await testDatabase(t);
  const own = await createWebhook(sql);
  const foreign = await createWebhook(sql, { userId: "user_2" });
  const eventId = await publishBy("webhook_publish_tx", sql);
  await refused(t, redeliver(sql, eventId), { code: "WH022", says: `'${eventId}' has not been` });
  await fanOut(sql);
  const tested = await eventOf(sql, await testWebhook(sql, own.id));
  const before = await state(sql);
  for (const id of ["evt_nope", "", null, tested]) {
    await refused(t, redeliver(sql, id), { code: "WH020", says: id === null ? "null" : `'${id}'` });
  }
  const answers: (string | undefined)[] = [];
  for (const id of ["wh_nope", foreign.id, ""]) {
    await refused(t, redeliver(sql, eventId, id), { code: "WH020", says: `'${id}'` });
    await redeliver(sql, eventId, id).catch((error: Error) =>
      answers.push(error.message.replace(`'${id}'`, "…")),
    );
  }
  t.equal(new Set(answers).size, 1, "the same answer for somebody else's", { answers });
  t.strictSame(await state(sql), before, "nothing is written");
});

// redeliver_since ---------------------------------------------------------------------

void t.test("redeliver_since goes by how the last delivery of an event ended", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { retrySchedule: "{}", maxInFlight: 100 });
  const other = await createWebhook(sql, { retrySchedule: "{}" });
  /** What became of the deliveries of an event, in their order. */
  const histories = {
    failed: [500],
    delivered: [200],
    "failed, then delivered": [500, 200],
    "failed twice": [500, 500],
    "delivered, then failed": [200, 500],
    "failed, then pending": [500, null],
    "delivered, then pending": [200, null],
    pending: [null],
  };
  const failed = ["failed", "failed twice", "delivered, then failed"];
  const ended = [...failed, "delivered", "failed, then delivered"];
  const names = new Map<string, string>();
  for (const [name, [first, second]] of Object.entries(histories)) {
    const eventId = await publishBy("webhook_publish_tx", sql);
    names.set(eventId ?? "", name);
    await fanOut(sql);
    if (first) await answerAll(sql, id, first);
    if (second !== undefined) await redeliver(sql, eventId, id);
    if (second) await answerAll(sql, id, second);
    // What is left pending waits, so that nobody answers it with the next one.
    await sql`
      update webhookpub.queue set due_at = now() + interval '1 hour' where webhook_id = ${id}`;
  }
  await answerAll(sql, other.id, 500);
  await testWebhook(sql, id);
  const before = await state(sql);
  const count = (args: Arguments) => redeliverSince(sql, id, args);
  t.equal(await count({ p_dry_run: true }), failed.length);
  t.equal(await count({ p_dry_run: true, p_only_failed: false }), ended.length);
  t.strictSame(await state(sql), before, "a dry run only counts");

  const replayed = async (begun: number) => {
    const rows = (await deliveriesOf(sql, id)).slice(begun);
    t.equal(new Set(rows.map((row) => row.replay_id)).size, 1, "one replay_id a call");
    t.ok(rows.every((row) => row.status === "pending"));
    return rows.map((row) => String(names.get(row.event_id))).toSorted();
  };
  let begun = (await deliveriesOf(sql, id)).length;
  t.equal(await count({}), failed.length);
  t.strictSame(await replayed(begun), failed.toSorted());
  t.equal(await count({}), 0, "they are under way: none is doubled");
  begun += failed.length;
  t.equal(await count({ p_only_failed: false }), ended.length - failed.length);
  t.strictSame(await replayed(begun), ["delivered", "failed, then delivered"]);
  t.equal(await count({ p_only_failed: false }), 0);
  t.ok((await deliveriesOf(sql, other.id)).every((row) => row.replay_id === null));
  await sql`update webhookpub.queue set due_at = now()`;
  await answerAll(sql, id, 500);
  t.equal(await count({ p_dry_run: true }), Object.keys(histories).length, "all have failed now");
});

void t.test("redeliver_since takes events by when they were published", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { retrySchedule: "{}" });
  await publish(sql, { count: 3 });
  await fanOut(sql);
  await answerAll(sql, id, 500);
  const times = await sql<{ at: string }[]>`
    select created_at::text as at from webhookpub.events order by created_at`;
  const [first, second, third] = times.map(({ at }) => at);
  const count = (p_since: string | undefined, p_until?: string) =>
    redeliverSince(sql, id, { p_since, p_until, p_dry_run: true });
  t.equal(await count(first, third), 2, "from p_since on, before p_until");
  t.equal(await count(second, third), 1);
  t.equal(await count(third, "infinity"), 1);
  t.equal(await count("-infinity", first), 0);
  t.equal(await count("-infinity", "infinity"), 3);
  t.equal(await count("1960-01-01", "infinity"), 3);
  t.equal(await count("9999-01-01", "infinity"), 0);
  t.equal(await count(first), 3, "p_until is now");
  await sql`
    select webhookpub.update_webhook(${id}, p_events => '{email.sent}', p_filters => '{"labels": ["x"]}')`;
  t.equal(await count(first), 3, "nothing is matched again");
});

void t.test("redeliver_since refuses what it can't mean", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { retrySchedule: "{}" });
  const disabled = await createWebhook(sql, { retrySchedule: "{}" });
  const deleted = await createWebhook(sql, { retrySchedule: "{}" });
  await publish(sql);
  await fanOut(sql);
  for (const webhook of [id, disabled.id, deleted.id]) await answerAll(sql, webhook, 500);
  await sql`select webhookpub.disable_webhook(${disabled.id}, 'holiday')`;
  await sql`select webhookpub.delete_webhook(${deleted.id})`;
  const before = await state(sql);
  for (const p_dry_run of [false, true]) {
    const call = (webhookId: string | null, args: Arguments = {}) =>
      redeliverSince(sql, webhookId, { p_dry_run, ...args });
    await refused(t, call("wh_nope"), { code: "WH020", says: "'wh_nope'" });
    await refused(t, call(null), { code: "WH020", says: "null" });
    await refused(t, call(disabled.id), { code: "WH021", says: /disabled .*: holiday/ });
    await refused(t, call(deleted.id), { code: "WH021", says: /deleted/ });
    for (const args of [
      { p_since: null },
      { p_until: null },
      { p_since: "2024-01-02", p_until: "2024-01-01" },
      { p_since: "2024-01-01", p_until: "2024-01-01" },
    ]) {
      await refused(t, call(id, args), { code: "WH022", says: /p_since .* before p_until/ });
    }
    await refused(t, call(id, { p_only_failed: null }), { code: "WH022", says: "p_only_failed" });
  }
  await refused(t, redeliverSince(sql, id, { p_dry_run: null }), {
    code: "WH022",
    says: "p_dry_run",
  });
  t.strictSame(await state(sql), before, "nothing is written");
});

void t.test("two bulk replays at once make each replay once", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { retrySchedule: "{}", maxInFlight: 1000 });
  await publish(sql, { count: 300 });
  await fanOut(sql);
  await answerAll(sql, id, 500);
  const counts = await Promise.all(Array.from({ length: 4 }, () => redeliverSince(sql, id)));
  t.equal(
    counts.reduce((sum, count) => sum + count),
    300,
    counts.join(" + "),
  );
  t.equal((await deliveriesOf(sql, id)).length, 600);
});

void t.test("200,000 replays are made at once, and nobody is flooded", async (t) => {
  const { sql, session, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const { id } = await createWebhook(sql, { url: receiver.url(), maxInFlight: 7 });
  const other = await createWebhook(sql, { userId: "user_2" });
  // A session whose plans were made, and statistics taken, while the tables were small.
  const operator = session();
  await operator`analyze webhookpub.delivery_history, webhookpub.queue, webhookpub.envelopes`;
  for (let i = 0; i < 6; i++) await redeliverSince(operator, id);
  await sql`alter table webhookpub.delivery_history set (autovacuum_enabled = off)`;
  const total = 200_000;
  await sql`
    with event as materialized (
      select 'evt_' || n as id, clock_timestamp() as at, n
      from generate_series(1, ${2 * total}) as n
    ),
    body as (
      insert into webhookpub.envelopes (event_id, created_at, user_id, body)
      select id, at, 'user_1', json_build_object('id', id)::text from event where n <= ${total}
    )
    insert into webhookpub.delivery_history
      (id, webhook_id, event_id, event_type, event_created_at, created_at, status, attempts,
       max_attempts, delivered_at)
    select webhookpub.delivery_id(at), case when n <= ${total} then ${id} else ${other.id} end,
      id, 'email.sent', at, at, case when n % 10 = 0 then 'failed' else 'delivered' end, 1, 8,
      case when n % 10 > 0 then at end
    from event`;

  await operator`begin`;
  t.equal(await redeliverSince(operator, id), total / 10);
  t.strictSame(await tablesReadThrough(operator), [], "no table is read through");
  await operator`rollback`;
  const begun = performance.now();
  t.equal(await redeliverSince(operator, id, { p_dry_run: true, p_only_failed: false }), total);
  const counted = performance.now();
  t.equal(await redeliverSince(operator, id, { p_only_failed: false }), total);
  const made = performance.now();
  t.comment(
    `${total} counted in ${((counted - begun) / 1000).toFixed(1)} s, ` +
      `made in ${((made - counted) / 1000).toFixed(1)} s`,
  );
  t.equal((await sql`select from graphile_worker.jobs`).count, 1, "by one job");

  receiver.reply = () => ({ status: 200, delayMs: 20 });
  await startWorkerProcess(t, url);
  await receiver.received(1000);
  const [{ pending }] = await sql<[{ pending: string }]>`
    select count(*) as pending from webhookpub.deliveries where status = 'pending'`;
  t.ok(Number(pending) > 0, `${pending} are still pending`);
  t.equal(receiver.peak(), 7, "no more requests at once than the webhook takes");
});

// test_webhook ------------------------------------------------------------------------

void t.test("a test is one delivery outside of the event log", async (t) => {
  const { sql } = await testDatabase(t);
  const { id, secret } = await createWebhook(sql, { events: "{email.sent}" });
  const other = await createWebhook(sql, { events: "{*}" });
  const deliveryId = await testWebhook(sql, id);
  t.match(deliveryId, /^whd_[0-9a-f]{32}$/);
  const [leased, ...others] = await leaseRequests(sql, [id, other.id], [10, 10]);
  t.strictSame(others, [], "and for nobody else");
  t.equal(leased?.delivery_id, deliveryId);
  t.equal(leased?.headers["webhook-event-type"], "email.sent");
  const event = new Webhook(secret).verify(leased!.body, leased!.headers);
  t.match(event, {
    event: "email.sent",
    id: leased?.headers["webhook-id"],
    created_at: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/,
    data: { test: true },
  });
  t.strictSame(Object.keys(event as object), ["event", "id", "created_at", "data"]);
  t.match([...(await sql`select key from graphile_worker.jobs`)], [{ key: id }]);
  t.equal((await sql`select from webhookpub.events`).count, 0);
  const eventId = await eventOf(sql, deliveryId);
  await refused(t, sql`select * from webhookpub.explain_event(${eventId})`, {
    code: "WH020",
    says: eventId,
  });
  const [kept] = await sql`
    select envelope from webhookpub.envelopes_by_event where event_id = ${eventId}`;
  t.equal(kept?.["envelope"], leased?.body, "but what was sent can be looked up");
});

void t.test("the type of a test is one that the webhook listens to", async (t) => {
  const { sql } = await testDatabase(t);
  await sql`insert into webhookpub.event_types (name) values ('order.paid'), ('order.lost')`;
  for (const [events, type, expected] of [
    ["{email.sent,email.received}", undefined, "email.sent"],
    ["{email.sent,email.received}", null, "email.sent"],
    ["{order.*}", undefined, "order.lost"],
    ["{order.*,order.paid}", undefined, "order.paid"],
    ["{*}", undefined, "email.approved"],
    ["{webhook.*}", undefined, "webhook.delivery_failed"],
    ["{email.sent}", "order.paid", "order.paid"],
    ["{email.sent}", "webhook.disabled", "webhook.disabled"],
  ] as const) {
    const { id } = await createWebhook(sql, { events });
    await testWebhook(sql, id, type);
    const [leased] = await leaseRequests(sql, [id], [1]);
    t.equal(leased?.headers["webhook-event-type"], expected, `${events}, ${type}`);
  }
});

void t.test("a test is tried once, and its failure is told to nobody", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await createWebhook(sql, { events: "{*}" });
  const deliveryId = await testWebhook(sql, id);
  await answerAll(sql, id, 500);
  const [row] = await sql`
    select status, attempts, last_error from webhookpub.deliveries where id = ${deliveryId}`;
  t.match(row, { status: "failed", attempts: 1, last_error: "HTTP 500" });
  t.equal((await sql`select from webhookpub.events`).count, 0, "no webhook.delivery_failed");
  t.match(
    [...(await sql`select failures from webhookpub.webhooks where id = ${id}`)],
    [{ failures: 1 }],
  );
  await testWebhook(sql, id);
  await answerAll(sql, id, 200);
  t.match(
    [...(await sql`select failures from webhookpub.webhooks where id = ${id}`)],
    [{ failures: 0 }],
  );
});

void t.test("test_webhook refuses, and nothing is written", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const disabled = await createWebhook(sql);
  const deleted = await createWebhook(sql);
  const unlisted = await createWebhook(sql, { events: "{order.paid}" });
  await sql`select webhookpub.disable_webhook(${disabled.id})`;
  await sql`select webhookpub.delete_webhook(${deleted.id})`;
  const before = await state(sql);
  for (const [webhookId, type, code, says] of [
    ["wh_nope", undefined, "WH020", "'wh_nope'"],
    [null, undefined, "WH020", "null"],
    [disabled.id, undefined, "WH021", /disabled since .*: manual/],
    [deleted.id, undefined, "WH021", /deleted/],
    [id, "email.nope", "WH002", "'email.nope'"],
    [id, "", "WH002", "''"],
    [id, "email.*", "WH002", "'email.*'"],
    [unlisted.id, undefined, "WH002", unlisted.id],
  ] as const) {
    await refused(t, testWebhook(sql, webhookId, type), { code, says });
  }
  t.strictSame(await state(sql), before);
});

// retry_publish_failures --------------------------------------------------------------

void t.test("what best effort could not publish is published when it can be", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { events: "{*}" });
  const args = {
    event_type: "order.paid",
    data: { amount: 7 },
    agent_id: "agent_1",
    conversation_id: "conv_1",
    labels: ["vip"],
    message_id: "msg_1",
    dedup_key: "again",
  };
  t.equal(await publishBy("webhook_publish_best_effort_tx", sql, args), null);
  const named = { event_type: "order.paid", event_id: "own_id" };
  await publishBy("webhook_publish_best_effort_tx", sql, named);
  await publishBy("webhook_publish_best_effort_tx", sql, { user_id: "" });
  t.equal(await retryFailures(sql), 0, "the cause is still there");

  await sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  t.equal(await retryFailures(sql), 2, "one bad row holds up no other");
  t.match(
    [...(await sql`select sqlstate from webhookpub.publish_failures`)],
    [{ sqlstate: "WH005" }],
  );
  t.equal(await retryFailures(sql), 0);
  const events = await sql`
    select id, type, user_id, agent_id, conversation_id, labels, message_id
    from webhookpub.events order by message_id`;
  const [{ derived }] = await sql<[{ derived: string }]>`
    select webhookpub.event_id('msg_1', 'order.paid', 'again') as derived`;
  t.match(
    [...events],
    [
      {
        id: derived,
        type: "order.paid",
        user_id: "user_1",
        agent_id: "agent_1",
        conversation_id: "conv_1",
        labels: ["vip"],
        message_id: "msg_1",
      },
      { id: "own_id", agent_id: null, message_id: null },
    ],
  );
  await fanOut(sql);
  const bodies = (await leaseRequests(sql, [id], [10])).map((leased) => leased.body);
  t.ok(
    bodies.some((body) => body.endsWith('"data": {"amount": 7}}')),
    "and they are delivered",
  );
});

void t.test("what fails again has its new error, and starves nobody", async (t) => {
  const { sql } = await testDatabase(t);
  const fail = (args: Arguments) => publishBy("webhook_publish_best_effort_tx", sql, args);
  for (const i of [1, 2, 3]) await fail({ event_type: "order.paid", user_id: `user_${i}` });
  await sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  await sql`update webhookpub.publish_failures set user_id = '' where id <= 2`;
  await fail({ event_type: "order.lost" });
  const failures = async () => [
    ...(await sql`
      select id, sqlstate, message, tried_at > created_at as retried
      from webhookpub.publish_failures order by id`),
  ];
  t.equal(await retryFailures(sql, 2), 0, "the first two fail again");
  t.match(await failures(), [
    { sqlstate: "WH005", message: /user id ''/, retried: true },
    { sqlstate: "WH005", retried: true },
    { sqlstate: "WH002", retried: false },
    { sqlstate: "WH002", retried: false },
  ]);
  t.equal(await retryFailures(sql, 2), 1, "and then others have their turn");
  t.match(await failures(), [
    { sqlstate: "WH005" },
    { sqlstate: "WH005" },
    { sqlstate: "WH002", message: /'order\.lost'/, retried: true },
  ]);
  for (const limit of [0, -1]) t.equal(await retryFailures(sql, limit), 0);
});

void t.test("a failure that was published meanwhile is done", async (t) => {
  const { sql } = await testDatabase(t);
  const args = { event_type: "order.paid", message_id: "msg_1" };
  await publishBy("webhook_publish_best_effort_tx", sql, args);
  await publishBy("webhook_publish_best_effort_tx", sql, args);
  await sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  await publishBy("webhook_publish_tx", sql, args);
  t.equal(await retryFailures(sql), 2);
  t.equal((await sql`select from webhookpub.events`).count, 1);
  t.equal((await sql`select from webhookpub.publish_failures`).count, 0);
});

void t.test("while publishing is off, failures stay as they are", async (t) => {
  const { sql } = await testDatabase(t);
  await publishBy("webhook_publish_best_effort_tx", sql, { event_type: "order.paid" });
  await sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  await sql`update webhookpub.settings set publish_enabled = false`;
  const before = await state(sql);
  t.equal(await retryFailures(sql), 0);
  t.strictSame(await state(sql), before);
  await sql`update webhookpub.settings set publish_enabled = true`;
  t.equal(await retryFailures(sql), 1);
});

void t.test("two that retry at once publish each failure once", async (t) => {
  const { sql, session } = await testDatabase(t);
  for (let i = 0; i < 6; i++) {
    await publishBy("webhook_publish_best_effort_tx", sql, { event_type: "order.paid" });
  }
  await sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  const own = session();
  await own`begin`;
  t.equal(await retryFailures(own, 4), 4);
  t.equal(await retryFailures(sql), 2, "nobody waits");
  await own`rollback`;
  t.equal(await retryFailures(sql), 4, "what was undone is still there");
  t.equal((await sql`select from webhookpub.events`).count, 6);
});
