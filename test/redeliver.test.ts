// Sending again: redeliver, redeliver_since, test_webhook, retry_publish_failures.
import { Webhook } from "standardwebhooks";
import t, { type Test } from "tap";
import type { Lease, Sql } from "../src/client.ts";
import { answerAll } from "./support/answer_all.ts";
import { testDatabase } from "./support/database.ts";
import { type AnySql, named } from "./support/named.ts";
import { publishBy, written } from "./support/publish.ts";
import { refused } from "./support/refused.ts";
import { createWebhook, publish } from "./support/scene.ts";
import { backendOf, untilBlocked } from "./support/waiting.ts";

interface Replay {
  readonly webhook_id: string;
  readonly delivery_id: string | null;
  readonly outcome: string;
  readonly reason: string | null;
}

async function redeliver(sql: AnySql, eventId: string | null, webhookId?: string) {
  return [
    ...(await sql<Replay[]>`
      select * from webhookpub.redeliver(${eventId}, ${webhookId ?? null})`),
  ];
}

interface Since {
  readonly p_since?: string;
  readonly p_until?: string;
  readonly p_only_failed?: boolean;
  readonly p_dry_run?: boolean;
}

async function redeliverSince(sql: AnySql, webhookId: string, args: Since = {}) {
  const [row] = await sql<[{ count: string }]>`
    select webhookpub.redeliver_since(${named(sql, {
      p_webhook_id: webhookId,
      p_since: "-infinity",
      ...args,
    })}) as count`;
  return Number(row.count);
}

/** Publishes one event and fans it out. */
async function published(sql: Sql, userId = "user_1"): Promise<string> {
  const [id] = await publish(sql, { userId, data: '{"subject": "Grüße"}' });
  await sql`select webhookpub.fan_out()`;
  return id as string;
}

const countDeliveries = async (sql: AnySql) =>
  Number((await sql`select count(*) from webhookpub.deliveries`)[0]?.["count"]);

/** The events of the replays that wait, oldest first. */
async function waitingReplays(sql: AnySql): Promise<string[]> {
  const rows = await sql<{ event_id: string }[]>`
    select event_id from webhookpub.deliveries
    where replay_id is not null and status = 'pending'
    order by event_created_at`;
  return rows.map((row) => row.event_id);
}

/** Two webhooks of one user that want everything about email. */
async function scene(t: Test) {
  const database = await testDatabase(t);
  const { sql } = database;
  const first = await createWebhook(sql, { retrySchedule: "{}" });
  const second = await createWebhook(sql, { retrySchedule: "{}" });
  return { ...database, first, second, both: [first.id, second.id] };
}

void t.test(
  "a replay has the bytes and the id of the event, and a signature by the current secret",
  async (t) => {
    const { sql, first, second, both } = await scene(t);
    const id = await published(sql);
    const sent = await answerAll(sql, both, 200);
    const [{ secret }] = await sql<[{ secret: string }]>`
      select webhookpub.rotate_secret(${first.id}, '0') as secret`;

    const replays = await redeliver(sql, id);
    t.match(replays, [
      { webhook_id: first.id, delivery_id: /^whd_[0-9a-f]{32}$/, outcome: "queued", reason: null },
      { webhook_id: second.id, delivery_id: /^whd_[0-9a-f]{32}$/, outcome: "queued", reason: null },
    ]);
    const jobs = await sql<{ key: string }[]>`select key from graphile_worker.jobs order by key`;
    t.strictSame(
      jobs.map((job) => job.key),
      both.toSorted(),
      "each webhook has a job",
    );
    const again = await answerAll(sql, both, 200);
    const ids = (leases: Lease[]) => leases.map((lease) => lease.delivery_id).toSorted();
    t.strictSame(ids(again), replays.map((replay) => replay.delivery_id).toSorted());
    t.strictSame(
      new Set(again.map((lease) => lease.body)),
      new Set(sent.map((lease) => lease.body)),
      "the same bytes",
    );
    for (const { webhook_id, headers, body } of again) {
      const key = webhook_id === first.id ? secret : second.secret;
      t.match(new Webhook(key).verify(body, headers), { id, data: { subject: "Grüße" } });
      t.equal(headers["webhook-attempt"], "1");
    }
    const rows = await sql`
      select replay_id, event_type, status, max_attempts, expires_at > now() as kept
      from webhookpub.deliveries where replay_id is not null`;
    t.match(
      rows,
      [1, 2].map(() => ({
        replay_id: /^rep_[0-9a-f]{32}$/,
        event_type: "email.received",
        status: "delivered",
        max_attempts: 1,
        kept: true,
      })),
    );
  },
);

void t.test("a replay is not matched again", async (t) => {
  const { sql, first, second } = await scene(t);
  const id = await published(sql);
  await answerAll(sql, [first.id, second.id], 200);
  await sql`select webhookpub.update_webhook(${first.id}, p_events => '{email.sent}', p_retry_schedule => '{1 s,1 s}')`;
  const newer = await createWebhook(sql);

  t.match(await redeliver(sql, id), [
    { webhook_id: first.id, outcome: "queued" },
    { webhook_id: second.id, outcome: "queued" },
  ]);
  const [replay] = await sql`
    select max_attempts from webhookpub.deliveries
    where webhook_id = ${first.id} and replay_id is not null`;
  t.equal(replay?.["max_attempts"], 3, "its retries are those of the webhook now");
  await refused(t, redeliver(sql, id, newer.id), { code: "WH020", says: newer.id });
});

void t.test("a delivery that has not ended is returned, not doubled", async (t) => {
  const { sql, first, both } = await scene(t);
  const id = await published(sql);
  const pending = await redeliver(sql, id, first.id);
  t.match(pending, [{ webhook_id: first.id, outcome: "pending", reason: /not ended/ }]);
  t.equal(await countDeliveries(sql), 2, "the first deliveries");
  const [delivery] = await sql`select id from webhookpub.deliveries where webhook_id = ${first.id}`;
  t.equal(pending[0]?.delivery_id, delivery?.["id"]);

  await answerAll(sql, both, 200);
  const [queued] = await redeliver(sql, id, first.id);
  t.match(await redeliver(sql, id, first.id), [
    { webhook_id: first.id, delivery_id: queued?.delivery_id, outcome: "pending" },
  ]);
  t.match(await redeliver(sql, id), [{ outcome: "pending" }, { outcome: "queued" }], "all of them");

  await answerAll(sql, both, 500);
  t.match(
    await redeliver(sql, id),
    [{ outcome: "queued" }, { outcome: "queued" }],
    "any number of times",
  );
});

void t.test("of replays at the same time one is made, and all return it", async (t) => {
  const { sql, session, first, both } = await scene(t);
  const id = await published(sql);
  await answerAll(sql, both, 200);
  const [one, other] = [session(), session()];
  const pid = await backendOf(other);
  const meeting = await one.begin(async (transaction) => {
    const made = await redeliver(transaction, id, first.id);
    const late = redeliver(other, id, first.id);
    await untilBlocked(sql, pid);
    return { made, late: { answer: late } };
  });
  const late = await meeting.late.answer;
  t.match(meeting.made, [{ outcome: "queued" }]);
  t.match(late, [{ outcome: "pending", delivery_id: meeting.made[0]?.delivery_id }]);

  await answerAll(sql, both, 200);
  const many = await Promise.all(Array.from({ length: 10 }, () => redeliver(sql, id)));
  t.equal(new Set(many.flat().map((replay) => replay.delivery_id)).size, 2);
  t.equal(many.flat().filter((replay) => replay.outcome === "queued").length, 2);
});

void t.test("a webhook that is disabled or deleted is skipped, and it is said why", async (t) => {
  const { sql, first, second, both } = await scene(t);
  const id = await published(sql);
  await answerAll(sql, both, 200);
  await sql`select webhookpub.disable_webhook(${first.id}, 'moving house')`;
  await sql`select webhookpub.delete_webhook(${second.id})`;
  const expected = [
    {
      webhook_id: first.id,
      delivery_id: null,
      outcome: "skipped",
      reason: "the webhook is disabled: moving house",
    },
    {
      webhook_id: second.id,
      delivery_id: null,
      outcome: "skipped",
      reason: "the webhook is deleted",
    },
  ];
  t.strictSame(
    (await redeliver(sql, id)).map((row) => ({ ...row })),
    expected,
  );
  t.strictSame(
    (await redeliver(sql, id, second.id)).map((row) => ({ ...row })),
    expected.slice(1),
  );
  t.equal(await countDeliveries(sql), 2, "nothing is written");
});

void t.test("an event of the direct path can be sent again, too", async (t) => {
  const { sql, first, second, both } = await scene(t);
  await sql`select webhookpub.disable_webhook(${second.id})`;
  const id = await publishBy("webhook_publish", sql);
  await sql`select webhookpub.enable_webhook(${second.id})`;
  const sent = await answerAll(sql, both, 500);
  t.match(await redeliver(sql, id), [{ webhook_id: first.id, outcome: "queued" }]);
  t.equal((await answerAll(sql, both, 500))[0]?.body, sent[0]?.body);
  t.equal(await redeliverSince(sql, second.id), 0, "it was not for this one");
  t.equal(await redeliverSince(sql, first.id), 1);
  await answerAll(sql, both, 200);

  await sql`delete from webhookpub.envelopes where event_id = ${id}`;
  await refused(t, redeliver(sql, id), { code: "WH020", says: String(id) }, "without its bytes");
  t.equal(await redeliverSince(sql, first.id, { p_only_failed: false }), 0, "without its bytes");
});

void t.test("what is not there, and what is somebody else's, is refused alike", async (t) => {
  const { sql, first } = await scene(t);
  const id = await published(sql);
  const foreign = await createWebhook(sql, { userId: "user_2" });
  const [unmatched] = await sql<[{ id: string }]>`
    select webhook_id as id
    from webhookpub.create_webhook('user_1', 'https://receiver.example/', '{webhook.disabled}')`;
  await sql`select webhookpub.test_webhook(${first.id})`;
  const [test] = await sql<[{ event_id: string }]>`
    select event_id from webhookpub.deliveries where replay_id is not null`;
  const [pending] = await publish(sql);
  const before = await written(sql);

  const cases = [
    { name: "no such event", event: "evt_none", webhook: undefined, says: "evt_none" },
    { name: "null", event: null, webhook: undefined, says: "null" },
    { name: "no such event for a webhook", event: "evt_none", webhook: first.id, says: "evt_none" },
    { name: "no such webhook", event: id, webhook: "wh_none", says: "wh_none" },
    { name: "another user's webhook", event: id, webhook: foreign.id, says: foreign.id },
    {
      name: "a webhook that it did not match",
      event: id,
      webhook: unmatched.id,
      says: unmatched.id,
    },
    {
      name: "an event that was not fanned out",
      event: pending as string,
      webhook: first.id,
      says: first.id,
    },
    { name: "a test", event: test.event_id, webhook: undefined, says: test.event_id },
  ];
  for (const { name, event, webhook, says } of cases) {
    await refused(t, redeliver(sql, event, webhook), { code: "WH020", says }, name);
  }
  const anonymous = (error: Error) => error.message.replaceAll(/'[^']*'/g, "'…'");
  const messages = await Promise.all(
    ["wh_none", foreign.id].map((webhook) => redeliver(sql, id, webhook).catch(anonymous)),
  );
  t.equal(messages[0], messages[1], "another user's webhook is like none");
  t.strictSame(await redeliver(sql, pending as string), [], "nothing to repeat before fan-out");
  t.strictSame(await written(sql), before, "nothing is written");
});

void t.test(
  "redeliver_since takes what last failed, or all, of a time, but nothing that is pending",
  async (t) => {
    const { sql, first, second, both } = await scene(t);
    const fail = (id: string) =>
      redeliver(sql, id, first.id).then(() => answerAll(sql, [first.id], 500));
    const accept = (id: string) =>
      redeliver(sql, id, first.id).then(() => answerAll(sql, [first.id], 200));
    const publishAll = async (statusCode: number) => {
      const id = await published(sql);
      await answerAll(sql, both, statusCode);
      return id;
    };
    const early = await publishAll(500);
    const [{ since }] = await sql<[{ since: string }]>`select clock_timestamp() as since`;
    const delivered = await publishAll(200);
    const failed = await publishAll(500);
    const repaired = await publishAll(500);
    await accept(repaired);
    const failedTwice = await publishAll(500);
    await fail(failedTwice);
    const spoiled = await publishAll(200);
    await fail(spoiled);
    const retried = await publishAll(500);
    await redeliver(sql, retried, first.id);
    const unfinished = await published(sql);
    const [{ until }] = await sql<[{ until: string }]>`select clock_timestamp() as until`;
    await publish(sql, { type: "webhook.disabled" });
    await published(sql);

    const window = { p_since: since, p_until: until };
    const before = await written(sql);
    t.equal(await redeliverSince(sql, first.id, { ...window, p_dry_run: true }), 3, "a dry run");
    t.equal(
      await redeliverSince(sql, first.id, { ...window, p_only_failed: false, p_dry_run: true }),
      5,
    );
    t.strictSame(await written(sql), before, "a dry run writes nothing");
    await sql`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;

    t.equal(await redeliverSince(sql, first.id, window), 3);
    t.strictSame(await waitingReplays(sql), [failed, failedTwice, spoiled, retried]);
    const jobs = await sql`select key from graphile_worker.jobs`;
    t.strictSame([...jobs], [{ key: first.id }], "one job");
    t.equal(await redeliverSince(sql, first.id, window), 0, "they are pending now");
    t.equal(await redeliverSince(sql, first.id, { ...window, p_only_failed: false }), 2);
    t.strictSame(await waitingReplays(sql), [
      delivered,
      failed,
      repaired,
      failedTwice,
      spoiled,
      retried,
    ]);
    t.notOk((await waitingReplays(sql)).some((id) => [early, unfinished].includes(id)));

    await sql`delete from webhookpub.deliveries where event_id = ${delivered}`;
    t.equal(
      await redeliverSince(sql, second.id, { ...window, p_only_failed: false }),
      6,
      "the match decision counts, even when the delivery has expired",
    );
  },
);

void t.test("redeliver_since refuses a webhook that is not there or takes nothing", async (t) => {
  const { sql, first, second } = await scene(t);
  await published(sql);
  await answerAll(sql, [first.id, second.id], 500);
  await sql`select webhookpub.disable_webhook(${first.id})`;
  await sql`select webhookpub.delete_webhook(${second.id})`;
  const before = await written(sql);
  await refused(t, redeliverSince(sql, "wh_none"), { code: "WH020", says: "wh_none" });
  await refused(t, redeliverSince(sql, first.id), { code: "WH021", says: /disabled: manual/ });
  await refused(t, redeliverSince(sql, second.id, { p_dry_run: true }), {
    code: "WH021",
    says: "deleted",
  });
  t.strictSame(await written(sql), before, "nothing is written");
});

void t.test(
  "redeliver_since replays thousands at once, whatever stale statistics say, and floods no one",
  async (t) => {
    const { sql, session } = await testDatabase(t);
    const { id } = await createWebhook(sql, { maxInFlight: 7 });
    await sql`analyze webhookpub.events`;
    await sql`analyze webhookpub.deliveries`;
    const count = 10_000;
    await sql`
    with event as (
      insert into webhookpub.events
        (id, user_id, type, status, matched_webhook_ids, created_at, expires_at)
      select 'evt_' || i, 'user_1', 'email.sent', 'processed', array[${id}], now(), now()
      from generate_series(1, ${count}) as i
      returning *
    )
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select e.id, e.created_at, e.user_id, '{}' from event as e`;
    await sql`
    insert into webhookpub.deliveries
      (id, webhook_id, event_id, event_type, event_created_at, status, max_attempts, expires_at)
    select 'whd_' || e.id, ${id}, e.id, e.type, e.created_at, 'failed', 1, now()
    from webhookpub.events as e`;

    // Were everything compared with everything, it would take minutes.
    const replaying = session();
    await replaying`set statement_timeout = '60s'`;
    t.equal(await redeliverSince(replaying, id), count);
    t.equal((await waitingReplays(sql)).length, count);
    t.equal((await sql`select from graphile_worker.jobs`).count, 1);
    const [leased] = await sql`
    select count(*) from webhookpub.lease_deliveries(array[${id}, ${id}], '{1000,1000}')`;
    t.ok(Number(leased?.["count"]) <= 7, "no more than max_in_flight are under way", {
      found: leased,
    });
  },
);

void t.test("test_webhook sends one made-up event, outside the event log, once", async (t) => {
  const { sql, first } = await scene(t);
  const before = await written(sql);
  const [{ id }] = await sql<[{ id: string }]>`
    select webhookpub.test_webhook(${first.id}) as id`;
  t.match(id, /^whd_[0-9a-f]{32}$/);
  t.strictSame(await written(sql), {
    ...before,
    envelopes: before.envelopes + 1,
    deliveries: before.deliveries + 1,
    jobs: before.jobs + 1,
  });
  const [lease] = await answerAll(sql, [first.id], 500);
  t.equal(lease?.delivery_id, id);
  t.match(new Webhook(first.secret).verify(lease?.body ?? "", lease?.headers ?? {}), {
    id: /^evt_/,
    event: /^email\./,
    data: { test: true, webhook_id: first.id },
  });
  const [delivery] = await sql`
    select status, attempts, replay_id from webhookpub.deliveries where id = ${id}`;
  t.match(
    delivery,
    { status: "failed", attempts: 1, replay_id: /^test_/ },
    "it is not tried again",
  );
  t.equal(await redeliverSince(sql, first.id), 0, "nor replayed");
});

void t.test(
  "a test is of a type that the webhook listens to, or of the one that is asked for",
  async (t) => {
    const { sql } = await testDatabase(t);
    await sql`insert into webhookpub.event_types (name) values ('a.first'), ('order.paid'), ('order.sent')`;
    const cases = [
      { events: "{order.*,webhook.disabled}", type: undefined, expected: "webhook.disabled" },
      { events: "{order.sent,order.paid}", type: undefined, expected: "order.sent" },
      { events: "{order.*}", type: undefined, expected: "order.paid" },
      { events: "{*}", type: undefined, expected: "a.first" },
      { events: "{order.*}", type: "email.sent", expected: "email.sent" },
    ];
    for (const { events, type, expected } of cases) {
      const { id } = await createWebhook(sql, { events });
      const args = named(sql, { p_webhook_id: id, p_event_type: type });
      const [delivery] = await sql`
      select d.event_type from webhookpub.deliveries as d
      where d.id = (select webhookpub.test_webhook(${args}))`;
      t.equal(delivery, undefined, "a statement does not see what it writes");
      const [row] =
        await sql`select event_type from webhookpub.deliveries where webhook_id = ${id}`;
      t.equal(row?.["event_type"], expected, `${events}, ${type}`);
    }
  },
);

void t.test(
  "test_webhook refuses what it can't send, and is quiet while publishing is off",
  async (t) => {
    const { sql, first, second } = await scene(t);
    const { id } = await createWebhook(sql);
    await sql`select webhookpub.disable_webhook(${first.id})`;
    await sql`select webhookpub.delete_webhook(${second.id})`;
    const before = await written(sql);
    const test = (webhook: string, type: string | null = null) =>
      sql`select webhookpub.test_webhook(${webhook}, ${type}) as id`;
    await refused(t, test("wh_none"), { code: "WH020", says: "wh_none" });
    await refused(t, test(first.id), { code: "WH021", says: "disabled" });
    await refused(t, test(second.id), { code: "WH021", says: "deleted" });
    await refused(t, test(id, "no.such"), { code: "WH002", says: "no.such" });
    await sql`update webhookpub.settings set publish_enabled = false`;
    t.strictSame([...(await test(id))], [{ id: null }]);
    t.strictSame(await written(sql), before, "nothing is written");
  },
);

/** Fails to publish an order of each of these types, by best effort. */
async function failures(sql: AnySql, types: readonly string[]): Promise<void> {
  for (const type of types) {
    await publishBy("webhook_publish_best_effort_tx", sql, {
      event_type: type,
      data: { type },
      labels: "{a,b}",
      agent_id: "agent_1",
      message_id: type,
    });
  }
}

const retryFailures = async (sql: AnySql, limit?: number) => {
  const [row] = await sql<[{ count: string }]>`
    select webhookpub.retry_publish_failures(${named(sql, { p_limit: limit ?? 100 })}) as count`;
  return Number(row.count);
};

const failedTypes = async (sql: AnySql) => {
  const rows = await sql<{ event_type: string }[]>`
    select event_type from webhookpub.publish_failures order by id`;
  return rows.map((row) => row.event_type);
};

void t.test(
  "retry_publish_failures publishes what can be published now, and keeps the rest",
  async (t) => {
    const { sql } = await testDatabase(t);
    await failures(sql, ["x.one", "x.two", "x.three"]);
    await sql`insert into webhookpub.event_types (name) values ('x.one'), ('x.three')`;
    await sql`update webhookpub.publish_failures set sqlstate = 'XXXXX', message = 'long ago'`;

    await sql`update webhookpub.settings set publish_enabled = false`;
    t.equal(await retryFailures(sql), 0, "not while publishing is off");
    t.equal((await failedTypes(sql)).length, 3, "they stay");
    await sql`update webhookpub.settings set publish_enabled = true`;

    t.equal(await retryFailures(sql), 2);
    t.strictSame(
      [
        ...(await sql`select event_type, sqlstate, message ~ 'x.two' as named, retried_at is not null as retried from webhookpub.publish_failures`),
      ],
      [{ event_type: "x.two", sqlstate: "WH002", named: true, retried: true }],
      "with its new error",
    );
    const events = await sql`
    select e.type, e.agent_id, e.labels::text, e.message_id, v.envelope::jsonb -> 'data' ->> 'type' as data
    from webhookpub.events as e join webhookpub.envelopes_by_event as v on v.event_id = e.id
    order by e.created_at`;
    t.strictSame(
      [...events],
      ["x.one", "x.three"].map((type) => ({
        type,
        agent_id: "agent_1",
        labels: "{a,b}",
        message_id: type,
        data: type,
      })),
      "as they were, in their order",
    );
  },
);

void t.test("failures that stay do not hold up the others", async (t) => {
  const { sql } = await testDatabase(t);
  await failures(sql, ["x.bad", "x.worse", "x.good"]);
  await sql`insert into webhookpub.event_types (name) values ('x.good')`;
  t.equal(await retryFailures(sql, 2), 0);
  t.equal(await retryFailures(sql, 2), 1);
  t.strictSame(await failedTypes(sql), ["x.bad", "x.worse"]);
});

void t.test("failures that somebody else is retrying are left to them", async (t) => {
  const { sql, session } = await testDatabase(t);
  await failures(sql, ["x.one", "x.two"]);
  await sql`insert into webhookpub.event_types (name) values ('x.one'), ('x.two')`;
  await session().begin(async (other) => {
    await other`select from webhookpub.publish_failures where event_type = 'x.one' for update`;
    t.equal(await retryFailures(sql), 1);
  });
  t.strictSame(await failedTypes(sql), ["x.one"]);
});
