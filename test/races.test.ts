// Two sessions that want the same thing at once. What comes first is decided by locks, never by
// time: one holds what the other needs, and the test goes on when the other is seen waiting.
import { Webhook } from "standardwebhooks";
import t, { type Test } from "tap";
import type { Sql } from "../src/database/connect.ts";
import { testDatabase } from "./support/database.ts";
import { createWebhook, fanOutAll, publish } from "./support/scene.ts";
import { backendOf, untilBlocked } from "./support/waiting.ts";
import { leaseDeliveries } from "../src/database/calls.ts";
import { leaseRequests } from "./support/leases.ts";

/** Starts a call in a session of its own, and waits until it waits for a lock. */
async function blocked(
  sql: Sql,
  session: Sql,
  call: (session: Sql) => Promise<unknown>,
): Promise<{ done: Promise<unknown> }> {
  const pid = await backendOf(session);
  const done = call(session);
  done.catch(() => {}); // the test looks at it later
  await untilBlocked(sql, pid);
  return { done };
}

/** How the deliveries of a webhook stand. */
async function deliveriesOf(sql: Sql, webhookId: string): Promise<string[]> {
  const rows = await sql<{ status: string }[]>`
    select status from webhookpub.deliveries where webhook_id = ${webhookId} order by id`;
  return rows.map((row) => row.status);
}

/** A trigger that lets the inserts or updates of a table wait while somebody holds advisory lock 7. */
async function gate(sql: Sql, table: string, event = "insert"): Promise<void> {
  await sql.unsafe(`
    create or replace function public.wait_at_gate() returns trigger language plpgsql as $$
    begin
      perform pg_advisory_xact_lock_shared(7);
      return null;
    end $$`);
  await sql.unsafe(`
    create trigger wait_at_gate before ${event} on ${table}
    for each statement execute function public.wait_at_gate()`);
}

interface Steering {
  readonly what: string;
  readonly steer: (session: Sql, webhookId: string) => Promise<unknown>;
  /** What stands when both are over, and maintenance has run. */
  readonly expected: string[];
}

const STEERINGS: readonly Steering[] = [
  {
    what: "deleted",
    steer: (session, id) => session`select webhookpub.delete_webhook(${id})`,
    expected: ["cancelled"],
  },
  {
    what: "disabled",
    steer: (session, id) => session`select webhookpub.disable_webhook(${id})`,
    expected: ["pending"],
  },
  {
    what: "updated to other events",
    steer: (session, id) =>
      session`select webhookpub.update_webhook(${id}, p_events => '{email.sent}')`,
    expected: ["pending"],
  },
];

for (const { what, steer, expected } of STEERINGS) {
  void t.test(`a webhook ${what} while a fan-out has matched it already`, async (t) => {
    const { sql, session } = await testDatabase(t);
    await gate(sql, "webhookpub.delivery_history");
    const { id } = await createWebhook(sql);
    const [eventId] = await publish(sql);
    const [holder, fanOut, steerer] = [session(), session(), session()];
    await holder`select pg_advisory_lock(7)`;
    // Its snapshot is from before, and so is its decision.
    const { done } = await blocked(sql, fanOut, (one) => one`select webhookpub.fan_out()`);
    await steer(steerer, id);
    t.strictSame(await deliveriesOf(sql, id), [], "steering waits for no fan-out");
    await holder`select pg_advisory_unlock(7)`;
    await done;
    await sql`select from webhookpub.maintain()`;
    t.strictSame(await deliveriesOf(sql, id), expected);
    const [event] = await sql`
      select status, matched_webhook_ids from webhookpub.events where id = ${eventId!}`;
    t.strictSame(event, { status: "processed", matched_webhook_ids: [id] }, "the decision is kept");
    const leased = await sql`select from webhookpub.lease_deliveries(${[id]})`;
    t.equal(leased.count, what === "updated to other events" ? 1 : 0, "what goes out");
  });

  void t.test(`a webhook ${what} before a fan-out begins gets nothing`, async (t) => {
    const { sql, session } = await testDatabase(t);
    const { id } = await createWebhook(sql);
    await publish(sql);
    await steer(sql, id);
    await session()`select webhookpub.fan_out()`;
    t.strictSame(await deliveriesOf(sql, id), []);
  });

  void t.test(`a webhook that is being ${what} counts as it was until that commits`, async (t) => {
    const { sql, session } = await testDatabase(t);
    const { id } = await createWebhook(sql);
    await publish(sql);
    const steerer = session();
    await steerer`begin`;
    await steer(steerer, id);
    // It does not wait either: if it did, this would end it with an error.
    const fanOut = session();
    await fanOut`set lock_timeout = '10s'`;
    await fanOut`select webhookpub.fan_out()`;
    t.strictSame(await deliveriesOf(sql, id), ["pending"]);
    await steerer`commit`;
    await sql`select from webhookpub.maintain()`;
    t.strictSame(await deliveriesOf(sql, id), expected);
  });
}

/** A webhook of its own with leased deliveries, and answers to them. */
async function answersOf(
  sql: Sql,
  { status = 200, count = 1, userId = "user_1" } = {},
): Promise<{ id: string; answers: Answered[] }> {
  const { id } = await createWebhook(sql, { userId, maxInFlight: 100 });
  await publish(sql, { userId, count });
  await sql`select webhookpub.fan_out()`;
  const answers = await sql<Answered[]>`
    select delivery_id, attempt, started_at, ${status}::integer as status
    from webhookpub.lease_deliveries(${[id]})`;
  return { id, answers: [...answers] };
}

void t.test("a deletion waits for a recording, and then finds nothing to cancel", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id, answers } = await answersOf(sql);
  const [recorder, deleter] = [session(), session()];
  await recorder`begin`;
  t.strictSame(await record(recorder, answers), []);
  const { done } = await blocked(
    sql,
    deleter,
    (one) => one`select webhookpub.delete_webhook(${id})`,
  );
  await recorder`commit`;
  await done;
  t.strictSame(await deliveriesOf(sql, id), ["delivered"]);
});

void t.test("whoever holds a webhook or its deliveries holds up no other's answers", async (t) => {
  const { sql, session } = await testDatabase(t);
  for (const { what, hold, status, waits, expected } of [
    {
      what: "updated",
      hold: (one: Sql, id: string) =>
        one`select webhookpub.update_webhook(${id}, p_description => 'new')`,
      status: 200,
      waits: false,
      expected: "delivered",
    },
    {
      what: "updated, and is gone",
      hold: (one: Sql, id: string) =>
        one`select webhookpub.update_webhook(${id}, p_description => 'new')`,
      status: 410,
      waits: true,
      expected: "failed",
    },
    {
      what: "deleted",
      hold: (one: Sql, id: string) => one`select webhookpub.delete_webhook(${id})`,
      status: 200,
      waits: true,
      expected: "cancelled",
    },
  ]) {
    const userId = `user ${what}`;
    const other = await answersOf(sql, { userId, count: 2 });
    await sql`update webhookpub.webhooks set events = '{webhook.*}' where id = ${other.id}`;
    const own = await answersOf(sql, { userId, status, count: 2 });
    const [holder, recorder] = [session(), session()];
    await holder`begin`;
    await hold(holder, own.id);
    // If it waited, this would end it with an error.
    await recorder`set lock_timeout = '10s'`;
    const batch = [own.answers[0]!, ...other.answers, own.answers[1]!];
    const held = await record(recorder, batch);
    t.strictSame(
      held.toSorted(),
      waits ? own.answers.map((one) => one.delivery_id).toSorted() : [],
      `${what}: what is to be told again`,
    );
    t.strictSame(await deliveriesOf(sql, other.id), ["delivered", "delivered"], "others");
    t.equal(
      (await attemptsOf(sql, own.id)).length,
      waits ? 0 : 2,
      "with its attempt, or not at all",
    );
    await holder`commit`;
    t.strictSame(await record(recorder, batch), [], "told again, as after a lost answer");
    t.strictSame(await deliveriesOf(sql, own.id), [expected, expected]);
    t.strictSame(await attemptsOf(sql, own.id), [status, status], "each answer once");
    t.strictSame(await attemptsOf(sql, other.id), [200, 200]);
    const [{ gone }] = await sql<[{ gone: boolean }]>`
      select disabled_reason is not distinct from 'gone' as gone
      from webhookpub.webhooks where id = ${own.id}`;
    t.equal(gone, status === 410);
  }
});

/** The attempts of a webhook, by their status. */
async function attemptsOf(sql: Sql, webhookId: string): Promise<number[]> {
  const rows = await sql<{ status_code: number }[]>`
    select status_code from webhookpub.attempts where webhook_id = ${webhookId}`;
  return rows.map((row) => row.status_code);
}

void t.test("a recording in the midst of which its webhook is deleted goes on", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id, answers } = await answersOf(sql);
  await gate(sql, "webhookpub.webhooks", "update");
  const [holder, recorder, deleter] = [session(), session(), session()];
  await holder`select pg_advisory_lock(7)`;
  // One has the delivery and wants the webhook, the other has the webhook and wants the delivery.
  const recording = await blocked(sql, recorder, (one) => record(one, answers));
  const deletion = await blocked(
    sql,
    deleter,
    (one) => one`select webhookpub.delete_webhook(${id})`,
  );
  await holder`select pg_advisory_unlock(7)`;
  t.strictSame(await recording.done, []);
  await deletion.done;
  t.strictSame(await deliveriesOf(sql, id), ["delivered"]);
});

void t.test("upkeep waits for no application", async (t) => {
  const { sql, session } = await testDatabase(t);
  const [fanOut, application, keeper] = [session(), session(), session()];
  const failing = (await createWebhook(sql, { userId: "user_2" })).id;
  const rotated = (await createWebhook(sql, { userId: "user_2" })).id;
  const deleted = (await createWebhook(sql)).id;
  await publish(sql);
  // A delivery that slips in while its webhook is deleted.
  await fanOut`begin`;
  await fanOut`select webhookpub.fan_out()`;
  await sql`select webhookpub.delete_webhook(${deleted})`;
  await fanOut`commit`;
  await sql`select webhookpub.rotate_secret(${rotated})`;
  await sql`update webhookpub.secrets set expires_at = now() where expires_at is not null`;
  await sql`
    update webhookpub.webhooks set failures = 10, failing_since = now() - interval '80 hours'
    where id = ${failing}`;

  await application`begin`;
  await application`select webhookpub.update_webhook(${failing}, p_description => 'new')`;
  await application`select webhookpub.rotate_secret(${rotated})`;
  await application`
    select from webhookpub.queue where webhook_id = ${deleted} for update`;
  await keeper`set lock_timeout = '10s'`;
  const round = async () => [
    ...(await keeper`
      select task, affected::integer from webhookpub.maintain()
      where task in ('disable_failing', 'cancel_deleted', 'expire_secrets') and affected > 0`),
  ];
  t.strictSame(await round(), []);
  await application`rollback`;
  t.strictSame(
    await round(),
    [
      { task: "disable_failing", affected: 1 },
      { task: "cancel_deleted", affected: 1 },
      { task: "expire_secrets", affected: 1 },
    ],
    "the next round finds what was left",
  );
  t.strictSame(await deliveriesOf(sql, deleted), ["cancelled"]);
});

void t.test("a lease that somebody else holds is passed by, and the others go", async (t) => {
  const { sql, session } = await testDatabase(t);
  const held = await createWebhook(sql);
  const free = await createWebhook(sql);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  const holder = session();
  await holder`begin`;
  await holder`select from webhookpub.lease_deliveries(${[held.id]})`;
  const leased = await leaseDeliveries(session(), [held.id, free.id], [10, 10]);
  t.match(leased, { leases: [{ webhook_id: free.id }], waits: [{ webhook_id: held.id }] });
  t.equal(leased.leases.length, 1);
  await holder`rollback`;
});

interface Answered {
  readonly delivery_id: string;
  readonly attempt: number;
  readonly started_at: string;
  readonly status: number;
}

/** Records answers with a status each; returns the deliveries that somebody holds. */
async function record(session: Sql, answers: readonly Answered[]): Promise<string[]> {
  const none = answers.map(() => null);
  const [row] = await session<[{ held: string[] }]>`
    select held_ids as held from webhookpub.record_attempts(
      ${answers.map((one) => one.delivery_id)}, ${answers.map((one) => one.attempt)}::integer[],
      ${answers.map((one) => one.started_at)}::timestamptz[], ${answers.map(() => 5)}::integer[],
      ${answers.map(() => "responded")}, ${answers.map((one) => one.status)}::integer[],
      ${none}::text[], ${none}::text[], ${none}::text[]
    )`;
  return row.held;
}

/** Records answers, those to deliveries that somebody holds again, as a worker does. */
async function tell(session: Sql, answers: readonly Answered[]): Promise<void> {
  for (let left = answers; left.length > 0;) {
    const held = await record(session, left);
    left = left.filter((answer) => held.includes(answer.delivery_id));
  }
}

void t.test(
  "a webhook that twenty sessions see fail is disabled once, with one event",
  async (t) => {
    const { sql, session } = await testDatabase(t);
    for (const { status, reason } of [
      { status: 410, reason: "gone" },
      { status: 500, reason: "failing" },
    ]) {
      const userId = `user_${status}`;
      const { id, answers } = await answersOf(sql, { userId, status, count: 20 });
      t.equal(answers.length, 20);
      await Promise.all(answers.map((answer) => tell(session(), [answer])));
      if (reason === "failing") {
        const { failures = 0 } = (await health(sql, id)) ?? {};
        t.ok(failures >= 1 && failures <= 20, `${failures} counted`);
        await sql`
          update webhookpub.webhooks
          set failures = 10, failing_since = failing_since - interval '73 hours'
          where id = ${id}`;
        const rounds = await Promise.all(
          Array.from({ length: 5 }, () => session()`select from webhookpub.disable_failing()`),
        );
        t.equal(rounds.length, 5);
      }
      t.match(await health(sql, id), { enabled: false, disabled_reason: reason });
      const events = await sql`
        select from webhookpub.events where user_id = ${userId} and type = 'webhook.disabled'`;
      t.equal(events.count, 1, `${reason}: one webhook.disabled`);
      t.equal((await attemptsOf(sql, id)).length, 20, "every answer is kept");
    }
  },
);

void t.test("failures that are recorded one after the other are counted exactly", async (t) => {
  const { sql } = await testDatabase(t);
  const { id, answers } = await answersOf(sql, { status: 500, count: 20 });
  for (const answer of answers) await record(sql, [answer]);
  t.match(await health(sql, id), { failures: 10 }, "as far as needed");
});

async function health(sql: Sql, webhookId: string) {
  const [row] = await sql<{ enabled: boolean; disabled_reason: string; failures: number }[]>`
    select enabled, disabled_reason, failures from webhookpub.webhooks where id = ${webhookId}`;
  return row;
}

void t.test(
  "each request that is leased during a rotation verifies under old or new",
  async (t) => {
    const { sql, session } = await testDatabase(t);
    for (const grace of ["1 hour", "0"]) {
      const userId = `grace ${grace}`;
      const { id, secret } = await createWebhook(sql, { userId, maxInFlight: 100 });
      await publish(sql, { userId, count: 30 });
      await sql`select webhookpub.fan_out()`;
      const lease = (one: Sql) => leaseRequests(one, [id], [10]);

      const [rotator, leaser] = [session(), session()];
      const before = await lease(leaser);
      await rotator`begin`;
      const [{ rotated }] = await rotator<[{ rotated: string }]>`
      select webhookpub.rotate_secret(${id}, ${grace}) as rotated`;
      // A lease waits for no rotation: if it did, this would end it with an error.
      await leaser`set lock_timeout = '10s'`;
      const during = await lease(leaser);
      await rotator`commit`;
      const after = await lease(leaser);
      const accepted = (requests: typeof before, secret: string) =>
        requests.filter(({ headers, body }) => verifies(secret, body, headers)).length;
      t.strictSame(
        [before, during, after].map((requests) => [
          accepted(requests, secret),
          accepted(requests, rotated),
        ]),
        [
          [10, 0],
          [10, 0],
          [grace === "0" ? 0 : 10, 10],
        ],
        `grace ${grace}: by the old secret, and by the new one`,
      );
    }
  },
);

function verifies(secret: string, body: string, headers: Record<string, string>): boolean {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch {
    return false;
  }
}

void t.test("a replay meets the automatic retry: each is its own delivery", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { retrySchedule: "{1 hour}" });
  const [eventId = ""] = await publish(sql);
  await sql`select webhookpub.fan_out()`;
  const lease = async (one: Sql) =>
    await one<Omit<Answered, "status">[]>`
      select delivery_id, attempt, started_at from webhookpub.lease_deliveries(${[id]})`;
  const redeliver = async (one: Sql) =>
    (
      await one<{ outcome: string; delivery_id: string }[]>`
      select outcome, delivery_id from webhookpub.redeliver(${eventId})`
    )[0]!;

  const [first] = await lease(sql);
  await record(sql, [{ ...first!, status: 500 }]);
  // The retry waits for its hour; a replay goes at once, and only one of two made together.
  const [one, other] = [session(), session()];
  await one`begin`;
  const made = await redeliver(one);
  const { done } = await blocked(sql, other, redeliver);
  await one`commit`;
  t.equal(made.outcome, "created");
  t.strictSame(await done, { outcome: "pending", delivery_id: made.delivery_id });

  const replayed = await lease(sql);
  t.strictSame(
    replayed.map((row) => row.delivery_id),
    [made.delivery_id],
  );
  await sql`update webhookpub.queue set due_at = now() where delivery_id = ${first!.delivery_id}`;
  const [retried] = await lease(sql);
  t.match(retried, { delivery_id: first!.delivery_id, attempt: 2 });
  // Both answers come at once, in one batch: neither is taken for the other's.
  await record(sql, [
    { ...retried!, status: 500 },
    { ...replayed[0]!, status: 200 },
  ]);
  t.strictSame(await deliveriesOf(sql, id), ["failed", "delivered"]);
});

void t.test("publishers of one id: the first to commit wins, whoever it belongs to", async (t) => {
  const { sql, session } = await testDatabase(t);
  const publishAs = (userId: string, eventId: string) => async (one: Sql) =>
    (
      await one<[{ id: string }]>`
      select webhook_publish_tx('email.sent', ${userId}, '{}', event_id => ${eventId}) as id`
    )[0].id;
  for (const { ends, other, expected } of [
    { ends: "commit", other: "user_1", expected: "the_id" },
    { ends: "commit", other: "user_2", expected: "WH004" },
    { ends: "rollback", other: "user_1", expected: "the_id" },
    { ends: "rollback", other: "user_2", expected: "the_id" },
  ]) {
    await sql`delete from webhookpub.events`;
    const [first, second] = [session(), session()];
    await first`begin`;
    await publishAs("user_1", "the_id")(first);
    const { done } = await blocked(sql, second, publishAs(other, "the_id"));
    await first.unsafe(ends);
    const result = await done.catch((error: { code: string }) => error.code);
    t.equal(result, expected, `${ends}, then ${other}`);
    const owners = await sql`select user_id from webhookpub.events`;
    t.strictSame(
      [...owners],
      [{ user_id: ends === "commit" ? "user_1" : other }],
      "one event, of whoever came through",
    );
  }
});

void t.test("an event is written that was refused for what changes in that instant", async (t) => {
  const { sql, session } = await testDatabase(t);
  // Between the insert, which sees what was, and the search for a reason, which sees what is.
  await gate(sql, "webhookpub.events");
  const bytes = (limit: number) => sql`update webhookpub.settings set max_payload_bytes = ${limit}`;
  const enabled = (on: boolean) => sql`update webhookpub.settings set publish_enabled = ${on}`;
  for (const { what, before, change, type = "email.sent", eventId } of [
    {
      what: "its type is new",
      change: () => sql`insert into webhookpub.event_types (name) values ('order.paid')`,
      type: "order.paid",
    },
    { what: "publishing is on again", before: () => enabled(false), change: () => enabled(true) },
    { what: "it may be as long", before: () => bytes(1024), change: () => bytes(4096) },
    {
      what: "its id is free",
      before: () => sql`
        select webhook_publish_tx('email.sent', 'user_2', '{}', event_id => 'the_id')`,
      change: () => sql`delete from webhookpub.events where id = 'the_id'`,
      eventId: "the_id",
    },
  ]) {
    for (const path of ["webhook_publish_tx", "webhook_publish_best_effort_tx"] as const) {
      await before?.();
      const [holder, publisher] = [session(), session()];
      await holder`select pg_advisory_lock(7)`;
      const { done } = await blocked(
        sql,
        publisher,
        (one) => one`
          select ${one(path)}(
            ${type}, 'user_2', ${sql.json({ text: "x".repeat(2000) })},
            event_id => ${eventId ?? null}
          ) as id`,
      );
      await change();
      await holder`select pg_advisory_unlock(7)`;
      const [{ id }] = (await done) as [{ id: string | null }];
      t.ok(id, `${what}: ${path} says that it is published`);
      const found = await sql`
        delete from webhookpub.events where id = ${id} and envelope like '%xxx%'`;
      t.equal(found.count, 1, "and it is there");
      await sql`delete from webhookpub.event_types where name = 'order.paid'`;
    }
  }
});

/** Runs many sessions at once, each the same few steps many times; returns what they raised. */
async function storm(
  t: Test,
  session: () => Sql,
  steps: readonly ((one: Sql, round: number) => Promise<unknown>)[],
  rounds: number,
): Promise<string[]> {
  const errors: string[] = [];
  await Promise.all(
    steps.map(async (step) => {
      const one = session();
      // Whoever waited as long as this would wait for ever.
      await one`set lock_timeout = '60s'`;
      for (let round = 0; round < rounds; round++) {
        await step(one, round).catch((error: Error & Record<"code" | "detail" | "where", string>) =>
          errors.push([error.code, error.message, error.detail, error.where].join(" ")),
        );
      }
    }),
  );
  t.comment(`${steps.length} sessions, ${rounds} rounds each`);
  return errors;
}

void t.test("upkeep among everything else: no deadlock, and nobody fails", async (t) => {
  const { sql, session } = await testDatabase(t);
  const ids: string[] = [];
  for (let i = 0; i < 5; i++) ids.push((await createWebhook(sql, { maxInFlight: 50 })).id);
  // The last one comes and goes.
  const enabled = (round: number) => ids[round % 4] ?? "";
  const deliver = async (one: Sql, round: number) => {
    const leases = await one<Answered[]>`
      select delivery_id, attempt, started_at, 200 as status
      from webhookpub.lease_deliveries((select array_agg(id) from webhookpub.webhooks))`;
    if (leases.length === 0) return;
    await tell(
      one,
      leases.map((lease, i) => ({ ...lease, status: (i + round) % 4 === 0 ? 500 : 200 })),
    );
  };
  // Days to make and days to drop, one table in each round; the lock is that of maintain().
  const partitions = async (one: Sql, round: number) => {
    const table = round % 2 === 0 ? "webhookpub.envelopes" : "webhookpub.attempts";
    await one.begin(async (tx) => {
      await tx`select pg_advisory_xact_lock(2003006834, 1)`;
      if (round % 4 < 2) {
        await tx`
          select webhookpub.create_partitions(${table}::text::regclass, 1, now() - interval '1 year')`;
      } else {
        await tx`
          select webhookpub.drop_partitions(${table}::text::regclass, now() - interval '300 days')`;
      }
    });
  };
  const guests: string[] = [];
  const comeAndGo = async (one: Sql) => {
    const guest = await createWebhook(one, { maxInFlight: 50 });
    guests.push(guest.id);
    if (guests.length > 4) await one`select webhookpub.delete_webhook(${guests.shift() ?? ""})`;
  };
  const update = async (one: Sql, round: number) => {
    const url = `https://receiver.example/${round}`;
    await one`
      select webhookpub.update_webhook(
        ${ids[round % 5] ?? ""}, p_url => ${url}, p_max_in_flight => ${50 + round}
      )`;
  };
  const redeliver = (one: Sql) => one`
    select r.*
    from (
      select id from webhookpub.events where status = 'processed' order by random() limit 1
    ) as e
    cross join lateral webhookpub.redeliver(e.id) as r`;
  const redeliverSince = (one: Sql, round: number) => one`
    select webhookpub.redeliver_since(
      ${enabled(round)}, now() - interval '1 minute', p_only_failed => ${round % 2 === 0}
    )`;
  const retryFailures = (one: Sql) => one`select webhookpub.retry_publish_failures(10)`;
  const ROUNDS = 40;
  const errors = await storm(
    t,
    session,
    [
      comeAndGo,
      comeAndGo,
      update,
      redeliver,
      redeliver,
      redeliverSince,
      redeliverSince,
      (one, round) => one`select webhookpub.test_webhook(${enabled(round)})`,
      // One that fails until its type is there.
      async (one, round) => {
        await one`
          select webhook_publish_best_effort_tx(${`storm.round_${round}`}, 'user_1', '{}')`;
        await one`
          insert into webhookpub.event_types (name) values (${`storm.round_${round}`})`;
      },
      retryFailures,
      retryFailures,
      (one) => publish(one, { count: 5 }),
      (one) => publish(one, { count: 5 }),
      (one) => one`select webhook_publish('email.sent', 'user_1', '{}')`,
      (one) => one`select webhookpub.fan_out(20)`,
      (one) => one`select webhookpub.fan_out(20)`,
      deliver,
      deliver,
      (one) => one`select from webhookpub.maintain()`,
      (one) => one`select from webhookpub.maintain()`,
      partitions,
      (one) => one`select webhookpub.wake()`,
      (one, round) => one`select webhookpub.rotate_secret(${ids[round % 5]!})`,
      (one, round) =>
        round % 2 === 0
          ? one`select webhookpub.disable_webhook(${ids[4]!})`
          : one`select webhookpub.enable_webhook(${ids[4]!})`,
    ],
    ROUNDS,
  );
  t.strictSame(errors, []);
  const [{ deadlocks }] = await sql<[{ deadlocks: number }]>`
    select deadlocks::integer from pg_stat_database where datname = current_database()`;
  t.equal(deadlocks, 0);
  await sql`select webhookpub.retry_publish_failures(1000)`;
  await fanOutAll(sql);
  await sql`select from webhookpub.maintain()`;
  const [lost] = await sql`
    select
      (select count(*)::integer from webhookpub.events where status = 'pending') as pending,
      (
        select ${ROUNDS} - count(*)::integer from webhookpub.events where type like 'storm.%'
      ) as unpublished,
      (
        select count(*)::integer
        from webhookpub.deliveries as d
        join webhookpub.webhooks as w on w.id = d.webhook_id
        where d.status = 'pending' and w.deleted_at is not null
      ) as of_the_deleted,
      (
        select count(*)::integer
        from webhookpub.events as e
        where exists (
          select from unnest(e.matched_webhook_ids) as m (id)
          where not exists (
            select from webhookpub.deliveries as d
            where d.event_id = e.id and d.webhook_id = m.id and d.replay_id is null
          )
        )
      ) as without_delivery,
      (
        select count(*)::integer
        from webhookpub.deliveries as d
        where not exists (select from webhookpub.envelopes as n where n.event_id = d.event_id)
      ) as without_envelope`;
  t.strictSame(lost, {
    pending: 0,
    unpublished: 0,
    of_the_deleted: 0,
    without_delivery: 0,
    without_envelope: 0,
  });
});

/**
 * What everybody does, on webhooks and events that no round of maintenance has to do with. An
 * act may be undone, and done again.
 */
async function everything(
  sql: Sql,
): Promise<Readonly<Record<string, (one: Sql) => Promise<unknown>>>> {
  const busy = await createWebhook(sql, { events: "{email.received}", maxInFlight: 100 });
  const [eventId = ""] = await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await publish(sql, { count: 3 });
  const [lease] = await sql<Omit<Answered, "status">[]>`
    select delivery_id, attempt, started_at from webhookpub.lease_deliveries(${[busy.id]})`;
  // What anybody could wait for but to no purpose: jobs of what is due.
  await sql`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;
  const { id } = await createWebhook(sql, { events: "{email.sent}" });
  await sql`select webhook_publish_best_effort_tx('order.paid', 'user_1', '{}')`;
  await sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  return {
    webhook_publish_tx: (one) => publish(one),
    webhook_publish_best_effort_tx: (one) => one`
      select webhook_publish_best_effort_tx('email.sent', 'user_1', '{}')`,
    "webhook_publish_best_effort_tx, of an unknown type": (one) => one`
      select webhook_publish_best_effort_tx('email.unheard_of', 'user_1', '{}')`,
    webhook_publish: (one) => one`select webhook_publish('email.sent', 'user_1', '{}')`,
    fan_out: (one) => one`select webhookpub.fan_out()`,
    lease_deliveries: (one) => one`select from webhookpub.lease_deliveries(${[busy.id]})`,
    record_attempts: (one) => record(one, [{ ...lease!, status: 200 }]),
    wake: (one) => one`select webhookpub.wake()`,
    create_webhook: (one) => createWebhook(one),
    update_webhook: (one) => one`
      select webhookpub.update_webhook(${id}, p_url => 'https://receiver.example/new')`,
    disable_webhook: (one) => one`select webhookpub.disable_webhook(${id})`,
    enable_webhook: (one) => one`select webhookpub.enable_webhook(${id})`,
    rotate_secret: (one) => one`select webhookpub.rotate_secret(${id})`,
    test_webhook: (one) => one`select webhookpub.test_webhook(${busy.id})`,
    redeliver: (one) => one`select from webhookpub.redeliver(${eventId})`,
    redeliver_since: (one) => one`
      select webhookpub.redeliver_since(
        ${busy.id}, now() - interval '1 hour', p_only_failed => false
      )`,
    retry_publish_failures: (one) => one`select webhookpub.retry_publish_failures()`,
    delete_webhook: (one) => one`select webhookpub.delete_webhook(${id})`,
  };
}

/**
 * Gives each task of a round of upkeep something to do, but for the last two: a day that is
 * made or dropped is a lock on a whole table, for which they wait 50 ms, and which they hold for
 * the instant that is left of the round.
 */
async function neglect(sql: Sql): Promise<void> {
  const userId = "neglected";
  const failing = await createWebhook(sql, { userId });
  await sql`
    update webhookpub.webhooks
    set failures = 10, failing_since = now() - interval '73 hours' where id = ${failing.id}`;
  const deleted = await createWebhook(sql, { userId });
  await publish(sql, { userId, count: 2 });
  await sql`select webhookpub.fan_out()`;
  await sql`
    update webhookpub.webhooks
    set enabled = false, disabled_at = now(), disabled_reason = 'deleted', deleted_at = now()
    where id = ${deleted.id}`;
  const forgotten = await createWebhook(sql, { userId });
  await sql`
    update webhookpub.webhooks
    set enabled = false, disabled_at = now(), disabled_reason = 'deleted', deleted_at = now() - interval '1 year'
    where id = ${forgotten.id}`;
  const rotated = await createWebhook(sql, { userId });
  await sql`select webhookpub.rotate_secret(${rotated.id})`;
  await sql`
    update webhookpub.secrets set expires_at = now() - interval '1 second'
    where webhook_id = ${rotated.id} and expires_at is not null`;
  await sql`
    update webhookpub.events set expires_at = now() - interval '1 second'
    where user_id = ${userId}`;
  await sql`
    select webhookpub.end_deliveries(array(
      select delivery_id from webhookpub.queue where webhook_id = ${failing.id}
    ), 'cancelled')`;
  await sql`
    update webhookpub.delivery_history
    set created_at = now() - interval '100 days', id = webhookpub.delivery_id(now() - interval '100 days')
    where webhook_id = ${failing.id}`;
  await sql`
    select graphile_worker.add_job('webhook_deliver', '{}', max_attempts => 1, job_key => 'dead')`;
  await sql`update graphile_worker._private_jobs set attempts = 1 where key = 'dead'`;
}

/** Does a round of upkeep, and makes sure that it had something to do everywhere. */
async function maintainAll(t: Test, one: Sql, what: string): Promise<void> {
  const done = await one<{ task: string; affected: string }[]>`
    select task, affected from webhookpub.maintain()`;
  const idle = done.filter(({ affected }) => Number(affected) === 0).map(({ task }) => task);
  t.strictSame(idle, ["drop_partitions", "create_partitions"], what);
}

void t.test("a round of upkeep that goes on and on holds up nobody", async (t) => {
  const { sql, session } = await testDatabase(t);
  const acts = await everything(sql);
  await neglect(sql);
  const [keeper, other] = [session(), session()];
  await keeper`begin`;
  await maintainAll(t, keeper, "it holds whatever a round can hold");
  // Whoever waited for it would wait for ever, but for this.
  await other`set lock_timeout = '10s'`;
  for (const [what, act] of Object.entries(acts)) {
    await t.resolves(act(other), what);
  }
  await keeper`rollback`;
});

void t.test("nobody who goes on and on holds up a round of upkeep", async (t) => {
  const { sql, session } = await testDatabase(t);
  const acts = await everything(sql);
  await neglect(sql);
  const [keeper, other] = [session(), session()];
  await keeper`set lock_timeout = '10s'`;
  for (const [what, act] of Object.entries(acts)) {
    await other`begin`;
    await act(other);
    await keeper`begin`;
    await maintainAll(t, keeper, what);
    await keeper`rollback`;
    await other`rollback`;
  }
});

void t.test(
  "steering waits for the upkeep that disables the same webhook, and counts",
  async (t) => {
    const { sql, session } = await testDatabase(t);
    const disabled = { enabled: false, disabled_reason: "failing" };
    for (const { what, steer, expected } of [
      {
        what: "update",
        steer: (one: Sql, id: string) => one`
        select webhookpub.update_webhook(${id}, p_url => 'https://receiver.example/new')`,
        expected: disabled,
      },
      {
        what: "rotate",
        steer: (one: Sql, id: string) => one`select webhookpub.rotate_secret(${id})`,
        expected: disabled,
      },
      {
        what: "disable",
        steer: (one: Sql, id: string) => one`select webhookpub.disable_webhook(${id})`,
        expected: disabled,
      },
      {
        what: "enable",
        steer: (one: Sql, id: string) => one`select webhookpub.enable_webhook(${id})`,
        expected: { enabled: true, disabled_reason: null },
      },
      {
        what: "delete",
        steer: (one: Sql, id: string) => one`select webhookpub.delete_webhook(${id})`,
        expected: { enabled: false, disabled_reason: "deleted" },
      },
    ]) {
      const { id } = await createWebhook(sql, { userId: what });
      await sql`
      update webhookpub.webhooks
      set failures = 10, failing_since = now() - interval '73 hours' where id = ${id}`;
      const [keeper, other] = [session(), session()];
      await keeper`begin`;
      await keeper`select from webhookpub.maintain()`;
      const { done } = await blocked(sql, other, (one) => steer(one, id));
      await keeper`commit`;
      await done;
      const [found] = await sql`
      select enabled, disabled_reason from webhookpub.webhooks where id = ${id}`;
      t.strictSame(found, expected, what);
      const told = await sql`
      select from webhookpub.events where user_id = ${what} and type = 'webhook.disabled'`;
      t.equal(told.count, 1, "and the user is told once");
    }
  },
);

void t.test("no publisher waits for whatever upkeep holds", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const [keeper, publisher] = [session(), session()];
  await publisher`set lock_timeout = '10s'`;
  for (const hold of [
    (one: Sql) => one`select from webhookpub.maintain()`,
    (one: Sql) => one`select webhookpub.fan_out()`,
    (one: Sql) => one`select from webhookpub.lease_deliveries(${[id]})`,
    (one: Sql) => one`select webhookpub.delete_webhook(${id})`,
    // These two go for a table's own lock, as a round does that has a day to make or to drop.
    (one: Sql) => one`
      select webhookpub.create_partitions('webhookpub.envelopes', 0, now() + interval '90 days')`,
    (one: Sql) => one`
      select webhookpub.drop_partitions('webhookpub.envelopes', now() + interval '100 days')`,
  ]) {
    await publish(sql);
    await keeper`begin`;
    await hold(keeper);
    const [eventId] = await publish(publisher);
    t.ok(eventId);
    await keeper`rollback`;
  }
});
