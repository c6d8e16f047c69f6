import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import t from "tap";
import { answerTo, type Outcome } from "../../src/deliver/answer.ts";
import type { Sql } from "../../src/database/connect.ts";
import { type Answer, type Lease, recordAttempts } from "../../src/database/calls.ts";
import { leaseDeliveries, leaseRequests } from "../support/leases.ts";
import { testDatabase } from "../support/database.ts";
import { tablesReadThrough } from "../support/plans.ts";
import { createWebhook, fanOutAll, publish, type WebhookOptions } from "../support/scene.ts";

/** A webhook of a user of its own, with deliveries that are due. */
interface Scene {
  readonly userId: string;
  readonly id: string;
}

let users = 0;

async function scene(
  sql: Sql,
  { count = 1, ...options }: WebhookOptions & { count?: number } = {},
): Promise<Scene> {
  users += 1;
  const userId = `user_${users}`;
  const { id } = await createWebhook(sql, { ...options, userId });
  await publish(sql, { userId, count });
  await sql`select webhookpub.fan_out()`;
  return { userId, id };
}

/** Leases what is pending, after everything that waits has become due. */
async function lease(sql: Sql, webhookId: string, limit = 1000): Promise<Lease[]> {
  await sql`
    update webhookpub.queue set due_at = now()
    where webhook_id = ${webhookId} and not leased`;
  return [...(await leaseDeliveries(sql, [webhookId], [limit]))];
}

async function leaseOne(sql: Sql, webhookId: string): Promise<Lease> {
  const [leased] = await lease(sql, webhookId, 1);
  if (!leased) throw new Error("nothing was leased");
  return leased;
}

/** Ends the leases of a webhook, as time does when their worker is dead. */
async function loseLeases(sql: Sql, webhookId: string): Promise<void> {
  await sql`
    update webhookpub.queue set due_at = now()
    where webhook_id = ${webhookId} and leased`;
}

function answer(leased: Lease, statusCode: number, retryAfter: string | null = null): Answer {
  return answerTo(leased, { kind: "responded", statusCode, body: "", retryAfter }, 5);
}

/** Everything that recording may change, for comparisons. */
async function snapshot(sql: Sql): Promise<object> {
  const [row] = await sql<[object]>`
    select
      (select json_agg(d order by d.id) from webhookpub.deliveries as d) as deliveries,
      (select json_agg(w order by w.id) from webhookpub.webhooks as w) as webhooks,
      (select json_agg(e order by e.id) from webhookpub.events as e) as events,
      (select json_agg(a order by a) from webhookpub.attempts as a) as attempts`;
  return row;
}

/** The deliveries of a webhook, by status, in the columns that matter here. */
async function deliveries(sql: Sql, webhookId: string) {
  return [
    ...(await sql`
      select d.status, d.leased, d.attempts, d.lost, d.last_status_code, d.last_error
      from webhookpub.deliveries as d
      where d.webhook_id = ${webhookId} order by d.status`),
  ];
}

async function health(sql: Sql, webhookId: string) {
  const [row] = await sql<
    [{ failures: number; failing_since: string | null; last_delivered_at: string | null }]
  >`
    select failures, failing_since, last_delivered_at
    from webhookpub.webhooks where id = ${webhookId}`;
  return row;
}

/** What the system itself has published for a user: types and data. */
async function notices(sql: Sql, userId: string) {
  return [
    ...(await sql<{ type: string; data: Record<string, unknown> }[]>`
      select e.type, n.envelope::jsonb -> 'data' as data
      from webhookpub.events as e
      join webhookpub.envelopes_by_event as n on n.event_id = e.id
      where e.user_id = ${userId} and e.type like 'webhook.%'
      order by e.type`),
  ];
}

/**
 * Records answers and says of each delivery of the webhook that waits whether its pause is
 * within these bounds, in seconds, whatever time the call took.
 */
async function pausesWithin(
  sql: Sql,
  {
    webhookId,
    answers,
    min,
    max,
  }: {
    webhookId: string;
    answers: readonly Answer[];
    min: number;
    max: number;
  },
): Promise<boolean[]> {
  const [{ begun }] = await sql<[{ begun: string }]>`select clock_timestamp() as begun`;
  await recordAttempts(sql, answers);
  const rows = await sql<{ within: boolean }[]>`
    select d.next_attempt_at between ${begun}::timestamptz + make_interval(secs => ${min})
      and clock_timestamp() + make_interval(secs => ${max}) as within
    from webhookpub.deliveries as d
    where d.webhook_id = ${webhookId} and d.status = 'pending' and not d.leased`;
  return rows.map((row) => row.within);
}

void t.test("leasing and recording", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;

  await t.test("a success ends a delivery", async (t) => {
    const { id, userId } = await scene(sql);
    const leased = await leaseOne(sql, id);
    await recordAttempts(sql, [
      answerTo(
        leased,
        { kind: "responded", statusCode: 204, body: "thanks", retryAfter: null },
        12.6,
      ),
    ]);
    const [delivery] = await sql`
      select d.status, d.leased, d.attempts, d.next_attempt_at, d.last_status_code, d.last_error,
        d.delivered_at >= d.last_attempt_at as delivered,
        d.last_attempt_at = ${leased.started_at}::timestamptz as attempted
      from webhookpub.deliveries as d where d.webhook_id = ${id}`;
    t.strictSame(delivery, {
      status: "delivered",
      leased: false,
      attempts: 1,
      next_attempt_at: null,
      last_status_code: 204,
      last_error: null,
      delivered: true,
      attempted: true,
    });
    const attempts = await sql`
      select delivery_id, attempt, started_at = ${leased.started_at}::timestamptz as leased_then,
        duration_ms, outcome, status_code, error, response_body, webhook_id
      from webhookpub.attempts where webhook_id = ${id}`;
    t.strictSame(
      [...attempts],
      [
        {
          delivery_id: leased.delivery_id,
          attempt: 1,
          leased_then: true,
          duration_ms: 13,
          outcome: "responded",
          status_code: 204,
          error: null,
          response_body: "thanks",
          webhook_id: id,
        },
      ],
    );
    t.strictSame(await notices(sql, userId), []);
  });

  const outcomes: { outcome: Outcome; status: string; error: string | null }[] = [
    ...[200, 201, 202, 204, 226, 299].map((statusCode) => ({
      outcome: { kind: "responded" as const, statusCode, body: "", retryAfter: null },
      status: "delivered",
      error: null,
    })),
    ...[100, 199, 300, 301, 304, 308, 400, 404, 429, 500, 503, 599].map((statusCode) => ({
      outcome: { kind: "responded" as const, statusCode, body: "", retryAfter: null },
      status: "failed",
      error: `HTTP ${statusCode}`,
    })),
    ...(["timed_out", "refused", "blocked"] as const).map((kind) => ({
      outcome: { kind, error: "why" },
      status: "failed",
      error: "why",
    })),
  ];
  await t.test("2xx is a success, everything else is not", async (t) => {
    const { id } = await scene(sql, {
      count: outcomes.length,
      maxInFlight: 100,
      retrySchedule: "{}",
    });
    const leased = await lease(sql, id);
    t.equal(leased.length, outcomes.length);
    await recordAttempts(
      sql,
      outcomes.map(({ outcome }, i) => answerTo(leased[i]!, outcome, 1)),
    );
    for (const [i, { outcome, status, error }] of outcomes.entries()) {
      const statusCode = outcome.kind === "responded" ? outcome.statusCode : null;
      const [row] = await sql`
        select d.status, d.last_status_code, d.last_error, a.outcome, a.status_code, a.error
        from webhookpub.deliveries as d
        join webhookpub.attempts as a on a.delivery_id = d.id
        where d.id = ${leased[i]!.delivery_id}`;
      t.strictSame(
        row,
        {
          status,
          last_status_code: statusCode,
          last_error: error,
          outcome: outcome.kind,
          status_code: statusCode,
          error,
        },
        `${outcome.kind} ${statusCode ?? ""}`,
      );
    }
  });

  await t.test("by default there are 8 attempts, over 29 h 21 min", async (t) => {
    const { id, userId } = await scene(sql, { count: 20 });
    for (const [i, minutes] of [1, 5, 15, 60, 240, 480, 960].entries()) {
      const leased = await lease(sql, id);
      t.strictSame(
        leased.map((one) => one.attempt),
        leased.map(() => i + 1),
      );
      const within = await pausesWithin(sql, {
        webhookId: id,
        answers: leased.map((one) => answer(one, 500)),
        min: minutes * 60 * 0.9,
        max: minutes * 60 * 1.1,
      });
      t.strictSame(
        within,
        Array.from({ length: 20 }, () => true),
        `after failure ${i + 1}: ${minutes} min, give or take 10 %`,
      );
      const times = await sql`
        select distinct next_attempt_at from webhookpub.deliveries where webhook_id = ${id}`;
      t.equal(times.count, 20, "each at a time of its own");
    }
    const last = await lease(sql, id);
    await recordAttempts(
      sql,
      last.map((one) => answer(one, 500)),
    );
    t.strictSame((await deliveries(sql, id))[0], {
      status: "failed",
      leased: false,
      attempts: 8,
      lost: 0,
      last_status_code: 500,
      last_error: "HTTP 500",
    });
    t.strictSame(await lease(sql, id), [], "and never again");
    t.equal((await notices(sql, userId)).length, 20);
  });

  for (const { schedule, pauses } of [
    { schedule: "{}", pauses: [] },
    { schedule: "{10 s}", pauses: [10] },
    { schedule: "{3 s,2 s,1 h}", pauses: [3, 2, 3600] },
  ]) {
    await t.test(`a webhook's own schedule ${schedule} counts`, async (t) => {
      const { id } = await scene(sql, { retrySchedule: schedule });
      for (const pause of pauses) {
        const within = await pausesWithin(sql, {
          webhookId: id,
          answers: [answer(await leaseOne(sql, id), 404)],
          min: pause * 0.9,
          max: pause * 1.1,
        });
        t.strictSame(within, [true], `${pause} s`);
      }
      await recordAttempts(sql, [answer(await leaseOne(sql, id), 404)]);
      t.match(await deliveries(sql, id), [{ status: "failed", attempts: pauses.length + 1 }]);
    });
  }

  for (const { schedule, min, max } of [
    { schedule: "{10 s}", min: 9, max: 11 },
    { schedule: "{}", min: 0, max: 86_400 },
  ]) {
    await t.test(`a schedule cut to ${schedule} meanwhile does not lose the answer`, async (t) => {
      const { id } = await scene(sql, { retrySchedule: "{1 min,1 min,1 min}" });
      await recordAttempts(sql, [answer(await leaseOne(sql, id), 500)]);
      const second = await leaseOne(sql, id);
      await sql`select webhookpub.update_webhook(${id}, p_retry_schedule => ${schedule})`;
      const within = await pausesWithin(sql, {
        webhookId: id,
        answers: [answer(second, 500)],
        min,
        max,
      });
      t.ok(within.every(Boolean));
      t.match(await deliveries(sql, id), [{ leased: false, attempts: 2, last_status_code: 500 }]);
      t.equal((await sql`select from webhookpub.attempts where webhook_id = ${id}`).count, 2);
    });
  }

  const base = { min: 54, max: 66 };
  for (const { status, header, min, max } of [
    { status: 429, header: "120", min: 120, max: 120 },
    { status: 503, header: "120", min: 120, max: 120 },
    { status: 503, header: " 120 ", min: 120, max: 120 },
    { status: 429, header: "86400", min: 86_400, max: 86_400 },
    { status: 429, header: "86401", min: 86_400, max: 86_400 },
    { status: 429, header: "9999999999", min: 86_400, max: 86_400 },
    { status: 503, header: "99999999999999999999", min: 86_400, max: 86_400 },
    { status: 503, header: "Fri, 31 Dec 9999 23:59:59 GMT", min: 86_400, max: 86_400 },
    { status: 429, header: "5", ...base },
    { status: 429, header: "0", ...base },
    { status: 429, header: "Wed, 21 Oct 2015 07:28:00 GMT", ...base },
    { status: 429, header: "", ...base },
    { status: 429, header: "soon", ...base },
    { status: 429, header: "-120", ...base },
    { status: 429, header: "120.5", ...base },
    { status: 429, header: "120 s", ...base },
    { status: 429, header: "2 hours", ...base },
    { status: 429, header: "infinity", ...base },
    { status: 429, header: "tomorrow", ...base },
    { status: 503, header: "Wed, 99 Oct 2099 07:28:00 GMT", ...base },
    { status: 503, header: "Sunday, 06-Nov-94 08:49:37 GMT", ...base },
    { status: 503, header: "Sun Nov  6 08:49:37 1994", ...base },
    { status: 503, header: "Sunday, 99-Foo-99 08:49:37 GMT", ...base },
    { status: 503, header: "Tue Nov  7 08:49:37 2062", min: 86_400, max: 86_400 },
    { status: 503, header: "Wed, 21 Foo 2099 07:28:00 GMT", ...base },
    { status: 503, header: "Wed, 21 Oct 2099 :::::::: GMT", ...base },
    { status: 503, header: "Wed, 21 Oct 0000 07:28:00 GMT", ...base },
    { status: 503, header: "Wed, 21 Oct 2099 99:99:99 GMT", ...base },
    { status: 500, header: "7200", ...base },
    { status: 404, header: "7200", ...base },
    { status: 301, header: "7200", ...base },
  ]) {
    const pause = min === max ? `${min} s` : "the schedule";
    await t.test(`Retry-After '${header}' with ${status} means ${pause}`, async (t) => {
      const { id } = await scene(sql, { retrySchedule: "{1 min}" });
      const within = await pausesWithin(sql, {
        webhookId: id,
        answers: [answer(await leaseOne(sql, id), status, header)],
        min,
        max,
      });
      t.strictSame(within, [true]);
    });
  }

  for (const { name, form } of [
    { name: "as HTTP prefers it", form: 'Dy, DD Mon YYYY HH24:MI:SS "GMT"' },
    { name: "of RFC 850", form: 'FMDay, DD-Mon-YY HH24:MI:SS "GMT"' },
    { name: "of asctime", form: "Dy Mon DD HH24:MI:SS YYYY" },
  ]) {
    await t.test(`Retry-After with a date ${name} means that very moment`, async (t) => {
      const { id } = await scene(sql, { retrySchedule: "{1 min}" });
      const [{ at, header }] = await sql<[{ at: string; header: string }]>`
      select m.at, to_char(m.at at time zone 'UTC', ${form}) as header
      from (select date_trunc('second', now() + interval '10 minutes')) as m (at)`;
      await recordAttempts(sql, [answer(await leaseOne(sql, id), 503, header)]);
      const [{ kept }] = await sql<[{ kept: boolean }]>`
      select next_attempt_at = ${at}::timestamptz as kept
      from webhookpub.deliveries where webhook_id = ${id}`;
      t.ok(kept, header);
    });
  }

  await t.test("Retry-After with the last attempt does not revive the delivery", async (t) => {
    const { id } = await scene(sql, { retrySchedule: "{}" });
    await recordAttempts(sql, [answer(await leaseOne(sql, id), 429, "10")]);
    t.match(await deliveries(sql, id), [{ status: "failed", attempts: 1 }]);
  });

  await t.test("410 fails the delivery and disables the webhook, and says so once", async (t) => {
    const { id, userId } = await scene(sql, { count: 3 });
    const [first, second] = (await lease(sql, id, 2)) as [Lease, Lease];
    await recordAttempts(sql, [answer(first, 410), answer(second, 410)]);

    t.match(await deliveries(sql, id), [
      { status: "failed", attempts: 1, last_status_code: 410 },
      { status: "failed", attempts: 1, last_status_code: 410 },
      { status: "pending", attempts: 0 },
    ]);
    const [webhook] = await sql`
      select enabled, disabled_reason, disabled_at is not null as dated
      from webhookpub.webhooks where id = ${id}`;
    t.strictSame(webhook, { enabled: false, disabled_reason: "gone", dated: true });
    const [failed, failedToo, disabled, ...others] = await notices(sql, userId);
    t.equal(failed?.type, "webhook.delivery_failed");
    t.equal(failedToo?.type, "webhook.delivery_failed");
    t.match(disabled, { type: "webhook.disabled", data: { webhook_id: id, reason: "gone" } });
    t.strictSame(others, []);
  });

  await t.test("410 leaves the reason of a webhook that is disabled already", async (t) => {
    const { id, userId } = await scene(sql);
    const leased = await leaseOne(sql, id);
    await sql`select webhookpub.disable_webhook(${id}, 'holiday')`;
    await recordAttempts(sql, [answer(leased, 410)]);
    const [webhook] = await sql`
      select disabled_reason from webhookpub.webhooks where id = ${id}`;
    t.strictSame(webhook, { disabled_reason: "holiday" });
    t.strictSame(
      (await notices(sql, userId)).map(({ type }) => type),
      ["webhook.delivery_failed"],
    );
  });

  await t.test("the last failure is told to the user in the same transaction", async (t) => {
    const { id, userId } = await scene(sql, { retrySchedule: "{}" });
    const leased = await leaseOne(sql, id);
    const own = database.session();
    await own`begin`;
    await recordAttempts(own, [answer(leased, 503)]);
    t.equal((await notices(own, userId)).length, 1);
    t.strictSame(await notices(sql, userId), [], "nobody else sees it yet");
    await own`rollback`;
    t.match(await deliveries(sql, id), [{ status: "pending", leased: true }]);

    await recordAttempts(sql, [answer(leased, 503)]);
    const [event] = await sql<[{ event_id: string; url: string }]>`
      select d.event_id, w.url from webhookpub.deliveries as d
      join webhookpub.webhooks as w on w.id = d.webhook_id where w.id = ${id}`;
    t.strictSame(await notices(sql, userId), [
      {
        type: "webhook.delivery_failed",
        data: {
          delivery_id: leased.delivery_id,
          webhook_id: id,
          url: event.url,
          event_id: event.event_id,
          event_type: "email.received",
          attempts: 1,
          last_status_code: 503,
          last_error: "HTTP 503",
        },
      },
    ]);
  });

  await t.test("nothing is told about a delivery of a webhook.* event", async (t) => {
    const { id, userId } = await scene(sql, { retrySchedule: "{}" });
    const listener = await createWebhook(sql, {
      userId,
      events: "{webhook.*}",
      retrySchedule: "{}",
    });
    await recordAttempts(sql, [answer(await leaseOne(sql, id), 500)]);
    await sql`select webhookpub.fan_out()`;
    const [about] = await leaseRequests(sql, [listener.id]);
    t.equal(about!.headers["webhook-event-type"], "webhook.delivery_failed");
    await recordAttempts(sql, [answer(about!, 500)]);
    t.match(await deliveries(sql, listener.id), [{ status: "failed" }]);
    t.equal((await notices(sql, userId)).length, 1, "the first, and no other");
  });

  await t.test("a catalog without the type does not keep an answer away", async (t) => {
    const { id, userId } = await scene(sql, { retrySchedule: "{}" });
    const leased = await leaseOne(sql, id);
    const own = database.session();
    await own`begin`;
    await own`delete from webhookpub.event_types where name = 'webhook.delivery_failed'`;
    await recordAttempts(own, [answer(leased, 500)]);
    t.match(await deliveries(own, id), [{ status: "failed" }]);
    const failures = await own`
      select user_id, sqlstate from webhookpub.publish_failures where user_id = ${userId}`;
    t.strictSame([...failures], [{ user_id: userId, sqlstate: "WH002" }]);
    await own`rollback`;
  });

  await t.test("a lost lease is given out again and costs no attempt", async (t) => {
    const { id } = await scene(sql, { retrySchedule: "{1 h,2 h}" });
    for (const lost of [0, 1]) {
      const [leased] = await leaseDeliveries(sql, [id], [1]);
      t.equal(leased?.attempt, lost + 1);
      t.match(await deliveries(sql, id), [{ leased: true, attempts: lost + 1, lost }]);
      t.equal((await leaseDeliveries(sql, [id], [1])).length, 0, "not while it lasts");
      await loseLeases(sql, id);
    }
    const [third] = await leaseDeliveries(sql, [id], [1]);
    const first = { min: 3600 * 0.9, max: 3600 * 1.1 };
    t.strictSame(
      await pausesWithin(sql, { webhookId: id, answers: [answer(third!, 500)], ...first }),
      [true],
      "the pause is that after a first failure",
    );
    const second = { min: 7200 * 0.9, max: 7200 * 1.1 };
    const fourth = answer(await leaseOne(sql, id), 500);
    t.strictSame(await pausesWithin(sql, { webhookId: id, answers: [fourth], ...second }), [true]);
    await recordAttempts(sql, [answer(await leaseOne(sql, id), 500)]);
    t.match(await deliveries(sql, id), [{ status: "failed", attempts: 5, lost: 2 }]);
  });

  await t.test("a delivery that three workers in a row were lost with is parked", async (t) => {
    const { id, userId } = await scene(sql, { retrySchedule: "{1 h}" });
    const lose = async () => {
      const [leased] = await leaseDeliveries(sql, [id], [1]);
      await loseLeases(sql, id);
      return leased!;
    };
    await lose();
    await lose();
    await sql`select webhookpub.wake()`;
    t.match(await deliveries(sql, id), [{ status: "pending", lost: 1 }], "not after two");
    const third = await lose();
    t.equal((await leaseDeliveries(sql, [id], [1])).length, 0, "it is not tried a fourth time");
    await sql`select webhookpub.wake()`;
    t.match(await deliveries(sql, id), [
      {
        status: "failed",
        leased: false,
        attempts: 3,
        lost: 3,
        last_error: "parked: its worker was lost 3 times",
      },
    ]);
    const told = await sql`
      select from webhookpub.events
      where user_id = ${userId} and type = 'webhook.delivery_failed'`;
    t.equal(told.count, 1);
    await recordAttempts(sql, [answer(third, 200)]);
    t.match(await deliveries(sql, id), [{ status: "failed" }], "a late answer is too late");

    const [event] = await sql<[{ event_id: string }]>`
      select event_id from webhookpub.deliveries where webhook_id = ${id}`;
    const [again] = await sql`select * from webhookpub.redeliver(${event.event_id}, ${id})`;
    t.match(again, { outcome: "created" });
    t.match(await leaseDeliveries(sql, [id], [1]), [{ attempt: 1 }], "it can be sent again");
  });

  await t.test("an answer to a delivery makes its losses count from anew", async (t) => {
    const { id } = await scene(sql, { retrySchedule: "{1 h,1 h}" });
    for (const _time of [1, 2]) {
      for (const _loss of [1, 2]) {
        await leaseOne(sql, id);
        await loseLeases(sql, id);
      }
      await recordAttempts(sql, [answer(await leaseOne(sql, id), 500)]);
    }
    t.match(await deliveries(sql, id), [{ status: "pending", attempts: 6, lost: 4 }]);
    await recordAttempts(sql, [answer(await leaseOne(sql, id), 200)]);
    t.match(await deliveries(sql, id), [{ status: "delivered" }]);
  });

  await t.test("of few that two workers were lost with, one is tried at a time", async (t) => {
    const some = await scene(sql, { count: 3 });
    const other = await scene(sql, { count: 3 });
    const both = [some.id, other.id];
    const leaseBoth = () => leaseDeliveries(sql, both, [10, 10]);
    for (const _loss of [1, 2]) {
      t.equal((await leaseBoth()).length, 6);
      for (const id of both) await loseLeases(sql, id);
    }
    const held = database.session();
    await held`begin`;
    await held`select pg_advisory_xact_lock(2003006834, 3)`;
    t.equal((await leaseBoth()).length, 0, "nor while somebody chooses");
    await held`rollback`;
    for (let left = 6; left > 0; left -= 1) {
      const [alone, ...more] = await leaseBoth();
      t.strictSame(more, [], `${left} left`);
      t.equal((await leaseBoth()).length, 0, "none beside it");
      await recordAttempts(sql, [answer(alone!, 200)]);
    }
    t.equal((await leaseBoth()).length, 0);
  });

  await t.test("a lease lasts 15 s longer than its request may", async (t) => {
    for (const { requestTimeout, ms } of [
      { requestTimeout: "2.5 s", ms: 2500 },
      { requestTimeout: "30 s", ms: 30_000 },
      { requestTimeout: undefined, ms: 15_000 },
    ]) {
      const { id } = await scene(sql, requestTimeout === undefined ? {} : { requestTimeout });
      const [leased] = await leaseRequests(sql, [id]);
      t.equal(leased?.timeout_ms, ms);
      const [{ seconds }] = await sql<[{ seconds: string }]>`
        select extract(epoch from next_attempt_at - last_attempt_at) as seconds
        from webhookpub.deliveries where webhook_id = ${id}`;
      t.equal(Number(seconds), ms / 1000 + 15);
    }
  });

  await t.test("a late 2xx to a pending delivery counts", async (t) => {
    const { id } = await scene(sql);
    const first = await leaseOne(sql, id);
    await loseLeases(sql, id);
    const second = await leaseOne(sql, id);
    await recordAttempts(sql, [answer(first, 200)]);
    t.match(await deliveries(sql, id), [
      { status: "delivered", leased: false, attempts: 2, last_status_code: 200 },
    ]);
    const before = await deliveries(sql, id);
    await recordAttempts(sql, [answer(second, 500)]);
    t.strictSame(await deliveries(sql, id), before, "what the second brings changes nothing");
    const attempts = await sql`
      select attempt, status_code from webhookpub.attempts where webhook_id = ${id} order by 1`;
    t.strictSame(
      [...attempts],
      [
        { attempt: 1, status_code: 200 },
        { attempt: 2, status_code: 500 },
      ],
    );
  });

  for (const { state, statusCode } of ["leased again", "waiting"].flatMap((state) =>
    [500, 410, 301].map((statusCode) => ({ state, statusCode })),
  )) {
    await t.test(`a late ${statusCode} to a delivery that is ${state} is only kept`, async (t) => {
      const { id, userId } = await scene(sql);
      const first = await leaseOne(sql, id);
      await loseLeases(sql, id);
      const second = await leaseOne(sql, id);
      if (state === "waiting") await recordAttempts(sql, [answer(second, 503)]);
      const [before] =
        await sql`select d.* from webhookpub.deliveries as d where webhook_id = ${id}`;
      const healthBefore = await health(sql, id);
      await recordAttempts(sql, [answer(first, statusCode)]);
      const [after] =
        await sql`select d.* from webhookpub.deliveries as d where webhook_id = ${id}`;
      t.strictSame(after, before);
      t.strictSame(await health(sql, id), healthBefore);
      t.strictSame(await notices(sql, userId), []);
      const attempts = await sql`
        select status_code from webhookpub.attempts where webhook_id = ${id} and attempt = 1`;
      t.strictSame([...attempts], [{ status_code: statusCode }]);
    });
  }

  for (const { status, statusCode } of ["delivered", "failed", "cancelled"].flatMap((status) =>
    [200, 500, 410].map((statusCode) => ({ status, statusCode })),
  )) {
    await t.test(`a late ${statusCode} to a ${status} delivery changes nothing`, async (t) => {
      const { id, userId } = await scene(sql, { retrySchedule: "{}" });
      const first = await leaseOne(sql, id);
      await loseLeases(sql, id);
      const second = await leaseOne(sql, id);
      if (status === "cancelled") await sql`select webhookpub.delete_webhook(${id})`;
      else await recordAttempts(sql, [answer(second, status === "delivered" ? 200 : 500)]);
      const state = async () => [
        ...(await sql`select d.* from webhookpub.deliveries as d where webhook_id = ${id}`),
        ...(await sql`select w.* from webhookpub.webhooks as w where id = ${id}`),
        ...(await notices(sql, userId)),
      ];
      const before = await state();
      t.match(before, [{ status }]);
      await recordAttempts(sql, [answer(first, statusCode)]);
      t.strictSame(await state(), before);
      const attempts = await sql`
        select status_code from webhookpub.attempts where webhook_id = ${id} and attempt = 1`;
      t.strictSame([...attempts], [{ status_code: statusCode }], "but it is kept");
    });
  }

  for (const statusCode of [200, 500, 503, 410]) {
    await t.test(`a ${statusCode} that is recorded twice counts once`, async (t) => {
      const { id } = await scene(sql);
      const answers = [answer(await leaseOne(sql, id), statusCode, "600")];
      await recordAttempts(sql, answers);
      const before = await snapshot(sql);
      await recordAttempts(sql, answers);
      t.strictSame(await snapshot(sql), before);
    });
    await t.test(`a ${statusCode} that stands twice in a batch counts once`, async (t) => {
      const { id } = await scene(sql);
      const one = answer(await leaseOne(sql, id), statusCode);
      await recordAttempts(sql, [one, one]);
      t.equal((await sql`select from webhookpub.attempts where webhook_id = ${id}`).count, 1);
      t.equal((await health(sql, id)).failures, statusCode === 200 ? 0 : 1);
    });
  }

  await t.test("one batch may hold answers of every kind", async (t) => {
    const ok = await scene(sql);
    const retried = await scene(sql);
    const exhausted = await scene(sql, { retrySchedule: "{}" });
    const gone = await scene(sql);
    const lateSuccess = await scene(sql);
    const lateFailure = await scene(sql);
    const ended = await scene(sql);
    const raced = await scene(sql);
    const again = async ({ id }: Scene) => {
      const first = await leaseOne(sql, id);
      await loseLeases(sql, id);
      return [first, await leaseOne(sql, id)] as const;
    };
    const endedLease = await leaseOne(sql, ended.id);
    await recordAttempts(sql, [answer(endedLease, 200)]);
    const [racedFirst, racedSecond] = await again(raced);
    const unknown = { ...(await leaseOne(sql, ok.id)), delivery_id: "whd_nobody" };

    await loseLeases(sql, ok.id);
    await recordAttempts(sql, [
      answer(unknown, 500),
      answer(racedSecond, 500),
      answer(racedFirst, 200),
      answer(endedLease, 500),
      answer((await again(lateFailure))[0], 500),
      answer((await again(lateSuccess))[0], 202),
      answer(await leaseOne(sql, gone.id), 410),
      answer(await leaseOne(sql, exhausted.id), 500),
      answer(await leaseOne(sql, retried.id), 500),
      answer(await leaseOne(sql, ok.id), 200),
    ]);

    for (const [name, { id }, expected] of [
      ["ok", ok, { status: "delivered", attempts: 2, lost: 1, last_status_code: 200 }],
      ["retried", retried, { status: "pending", leased: false, last_status_code: 500 }],
      ["exhausted", exhausted, { status: "failed", attempts: 1 }],
      ["gone", gone, { status: "failed", attempts: 1, last_status_code: 410 }],
      ["late success", lateSuccess, { status: "delivered", last_status_code: 202 }],
      ["late failure", lateFailure, { status: "pending", leased: true, last_status_code: null }],
      ["ended", ended, { status: "delivered", attempts: 1, last_status_code: 200 }],
      ["raced", raced, { status: "delivered", attempts: 2, last_status_code: 200 }],
    ] as const) {
      t.match(await deliveries(sql, id), [expected], name);
    }
    t.match(await notices(sql, exhausted.userId), [{ type: "webhook.delivery_failed" }]);
    t.strictSame(
      (await notices(sql, gone.userId)).map(({ type }) => type),
      ["webhook.delivery_failed", "webhook.disabled"],
    );
    t.equal((await sql`select from webhookpub.attempts where delivery_id = 'whd_nobody'`).count, 0);
    t.equal((await sql`select from webhookpub.attempts where webhook_id = ${raced.id}`).count, 2);
  });

  await t.test("a batch that the tables refuse leaves nothing behind", async (t) => {
    const { id } = await scene(sql, { count: 2 });
    const [first, second] = (await lease(sql, id)) as [Lease, Lease];
    const before = await snapshot(sql);
    await t.rejects(
      recordAttempts(sql, [answer(first, 200), { ...answer(second, 200), outcome: "blocked" }]),
      { code: "23514" },
    );
    t.strictSame(await snapshot(sql), before);
  });

  await t.test("last_delivered_at is kept to about 10 s, without writing more often", async (t) => {
    const { id } = await scene(sql, { count: 4 });
    const succeed = async () => {
      await recordAttempts(sql, [answer(await leaseOne(sql, id), 200)]);
      const [row] = await sql<[{ xmin: string; last_delivered_at: string; recent: boolean }]>`
        select xmin::text, last_delivered_at,
          last_delivered_at > clock_timestamp() - interval '9 seconds' as recent
        from webhookpub.webhooks where id = ${id}`;
      return row;
    };
    const first = await succeed();
    t.ok(first.recent);
    await sql`
      update webhookpub.webhooks set last_delivered_at = now() - interval '1 second'
      where id = ${id}`;
    const [{ xmin }] = await sql<[{ xmin: string }]>`
      select xmin::text from webhookpub.webhooks where id = ${id}`;
    t.equal((await succeed()).xmin, xmin);
    await sql`
      update webhookpub.webhooks set last_delivered_at = now() - interval '11 seconds'
      where id = ${id}`;
    t.ok((await succeed()).recent);
  });

  await t.test("failures are counted as far as it matters; a success forgets them", async (t) => {
    const { id } = await scene(sql, { count: 14, maxInFlight: 100 });
    const leases = await lease(sql, id);
    t.strictSame(await health(sql, id), {
      failures: 0,
      failing_since: null,
      last_delivered_at: null,
    });
    await recordAttempts(sql, [answer(leases[0]!, 500)]);
    const first = await health(sql, id);
    t.equal(first.failures, 1);
    t.ok(first.failing_since);
    await recordAttempts(
      sql,
      leases.slice(1, 10).map((one) => answer(one, 500)),
    );
    t.strictSame(await health(sql, id), { ...first, failures: 10 }, "since the first one");
    const version = async () => {
      const [row] = await sql<[{ xmin: string }]>`
        select xmin::text from webhookpub.webhooks where id = ${id}`;
      return row.xmin;
    };
    const before = await version();
    await recordAttempts(sql, [answer(leases[10]!, 500)]);
    t.equal(await version(), before, "ten are enough: the row stays cold");
    await recordAttempts(sql, [answer(leases[11]!, 200)]);
    t.match(await health(sql, id), { failures: 0, failing_since: null, last_delivered_at: /./ });
    await recordAttempts(sql, [answer(leases[12]!, 500), answer(leases[13]!, 200)]);
    t.match(await health(sql, id), { failures: 0, failing_since: null });
  });

  await t.test("a disabled webhook leases nothing and burns no attempt", async (t) => {
    const { id } = await scene(sql, { count: 2 });
    await sql`select webhookpub.disable_webhook(${id})`;
    t.strictSame(await lease(sql, id), []);
    t.match(await deliveries(sql, id), [
      { status: "pending", leased: false, attempts: 0 },
      { status: "pending", leased: false, attempts: 0 },
    ]);
    await sql`select webhookpub.enable_webhook(${id})`;
    t.equal((await leaseDeliveries(sql, [id], [10])).length, 2);
  });

  await t.test("a webhook that is disabled during a request still gets its answer", async (t) => {
    const { id } = await scene(sql, { count: 2 });
    const [first, second] = (await lease(sql, id)) as [Lease, Lease];
    await sql`select webhookpub.disable_webhook(${id})`;
    await recordAttempts(sql, [answer(first, 200), answer(second, 500)]);
    t.match(await deliveries(sql, id), [
      { status: "delivered" },
      { status: "pending", leased: false, attempts: 1, last_status_code: 500 },
    ]);
  });

  await t.test("each webhook is leased up to its own limit, oldest due first", async (t) => {
    const [a, b, c] = [
      await scene(sql, { count: 6 }),
      await scene(sql, { count: 6 }),
      await scene(sql, { count: 6, maxInFlight: 4 }),
    ];
    const counts = async (ids: string[], limits: number[] | null) => {
      const rows = await sql<{ webhook_id: string; n: number }[]>`
        select webhook_id, count(*)::integer as n
        from webhookpub.lease_deliveries(${ids}, ${limits}) group by webhook_id`;
      return ids.map((id) => rows.find((row) => row.webhook_id === id)?.n ?? 0);
    };
    await sql`
      update webhookpub.queue set due_at = now() - interval '1 hour'
      where delivery_id = (
        select max(delivery_id) from webhookpub.queue where webhook_id = ${b.id}
      )`;
    const [oldest] = await sql<[{ id: string }]>`
      select max(id) as id from webhookpub.deliveries where webhook_id = ${b.id}`;

    t.strictSame(await counts([c.id, b.id, a.id], [3, 1, 0]), [3, 1, 0]);
    const [leased] = await sql<[{ id: string }]>`
      select id from webhookpub.deliveries where webhook_id = ${b.id} and leased`;
    t.strictSame(leased, oldest);
    t.strictSame(await counts([c.id, b.id, a.id], [3, 2, 4]), [1, 2, 4], "max_in_flight: 4");
    t.strictSame(await counts([a.id, b.id, c.id], null), [2, 3, 0], "no limits but that");
    t.strictSame(await counts([a.id, b.id, c.id, "wh_nobody"], null), [0, 0, 0, 0]);
    t.strictSame(await counts([], []), []);

    await loseLeases(sql, c.id);
    t.strictSame(await counts([c.id], [100]), [4], "those that were lost come first");
    const [{ lost }] = await sql<[{ lost: number }]>`
      select count(*)::integer as lost from webhookpub.deliveries
      where webhook_id = ${c.id} and leased and lost = 1`;
    t.equal(lost, 4);
  });

  await t.test("a lowered max_in_flight counts what is under way already", async (t) => {
    const { id } = await scene(sql, { count: 10, maxInFlight: 6 });
    const leased = await lease(sql, id);
    t.equal(leased.length, 6);
    await sql`select webhookpub.update_webhook(${id}, p_max_in_flight => 3)`;
    t.equal((await lease(sql, id)).length, 0);
    await recordAttempts(
      sql,
      leased.slice(0, 4).map((one) => answer(one, 200)),
    );
    t.equal((await lease(sql, id)).length, 1);
  });
});

void t.test("plans made for empty tables do not read whole tables later", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await scene(sql);
  const worker = session();
  await worker`
    analyze webhookpub.delivery_history, webhookpub.queue, webhookpub.envelopes, webhookpub.attempts`;
  for (let i = 0; i < 10; i++) {
    await recordAttempts(worker, [answer(await leaseOne(worker, id), 500)]);
    await sql`update webhookpub.queue set attempt = 0`;
  }
  await sql`
    with delivery as (
      insert into webhookpub.delivery_history
        (id, webhook_id, event_id, event_type, event_created_at, created_at, status, max_attempts,
         delivered_at)
      select 'whd_' || n, ${id}, 'evt_' || n, 'email.sent', now() - n * interval '1 microsecond',
        now(), s.status, 8, case when s.status = 'delivered' then now() end
      from generate_series(1, 20000) as n
      cross join lateral (
        select case when n % 10 = 0 then 'pending' else 'delivered' end
      ) as s (status)
      returning id, webhook_id, status, event_id, event_created_at
    ),
    queued as (
      insert into webhookpub.queue (delivery_id, webhook_id, due_at)
      select d.id, d.webhook_id, now() from delivery as d where d.status = 'pending'
    )
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select event_id, event_created_at, 'user_1', '{}' from delivery`;

  for (const count of [1, 20]) {
    await worker`begin`;
    const leases = await leaseDeliveries(worker, [id], [count]);
    t.equal(leases.length, count);
    await recordAttempts(
      worker,
      leases.map((leased) => answer(leased, 500)),
    );
    t.strictSame(await tablesReadThrough(worker, { byIndex: true }), [], `${count} at once`);
    await worker`rollback`;
  }
});

void t.test(
  "an answer costs as much among 500 as among 20",
  { skip: !existsSync("/proc/self/schedstat") && "needs the processor times of Linux" },
  async (t) => {
    const { sql, session } = await testDatabase(t);
    await sql`update webhookpub.settings set max_webhooks_per_user = 1000`;
    const ids: string[] = [];
    for (let i = 0; i < 10; i += 1) ids.push((await createWebhook(sql, { maxInFlight: 1000 })).id);
    const worker = session();
    const [{ pid }] = await worker<[{ pid: number }]>`select pg_backend_pid() as pid`;
    /** Nanoseconds that the session's backend has been on a processor. */
    const used = async () =>
      Number((await readFile(`/proc/${pid}/schedstat`, "utf8")).split(" ")[0]);
    /** Of each answer, when so many come at once. */
    const costOf = async (size: number): Promise<number> => {
      await publish(sql, { count: 100 });
      await fanOutAll(sql);
      const leases = await leaseDeliveries(sql, ids);
      t.equal(leases.length, 1000);
      const begun = await used();
      for (let i = 0; i < leases.length; i += size) {
        const some = leases.slice(i, i + size);
        await recordAttempts(
          worker,
          some.map((leased) => answer(leased, 200)),
        );
      }
      return ((await used()) - begun) / leases.length;
    };
    await costOf(500);
    await costOf(20);
    const [few, many]: [number[], number[]] = [[], []];
    for (let round = 0; round < 3; round += 1) {
      few.push(await costOf(20));
      many.push(await costOf(500));
    }
    const ratio = Math.min(...many) / Math.min(...few);
    t.comment(
      `${(Math.min(...many) / 1000).toFixed(1)} µs an answer, ${ratio.toFixed(2)} of that among 20`,
    );
    t.ok(ratio < 1.2, `${ratio.toFixed(2)}`);
  },
);
