// A real worker whose webhooks are rotated, disabled, enabled and deleted while it sends,
// and what it tells of those that fail.
import { Webhook } from "standardwebhooks";
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { type Received, type Receiver, startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const { sql, url, session } = await testDatabase(t);
await startWorkerProcess(t, url);

async function rotate(id: string): Promise<string> {
  const [row] = await sql<[{ secret: string }]>`
    select webhookpub.rotate_secret(${id}) as secret`;
  return row.secret;
}

/** Which of these secrets a request was signed with, by their place. */
function signers(request: Received, secrets: readonly string[]): number[] {
  return secrets.flatMap((secret, i) => {
    try {
      new Webhook(secret).verify(request.body, request.headers as Record<string, string>);
      return [i];
    } catch {
      return [];
    }
  });
}

/** How the deliveries of a webhook stand: "5 delivered after 1", ordered. */
async function standing(id: string): Promise<string[]> {
  const rows = await sql<{ standing: string }[]>`
    select format('%s %s after %s', count(*), status, attempts) as standing
    from webhookpub.deliveries where webhook_id = ${id}
    group by status, attempts order by 1`;
  return rows.map((row) => row.standing);
}

const delivered = (id: string, count: number) =>
  until(
    async () =>
      (
        await sql`
          select from webhookpub.deliveries where webhook_id = ${id} and status = 'delivered'`
      ).count >= count,
    `${count} delivered`,
  );

/** Waits until a user has nothing left to fan out or to send. */
const settled = (userId: string) =>
  until(
    async () =>
      (
        await sql`
          select from webhookpub.events where user_id = ${userId} and status = 'pending'
          union all
          select from webhookpub.deliveries as d
          join webhookpub.webhooks as w on w.id = d.webhook_id
          where w.user_id = ${userId} and d.status = 'pending' and w.enabled`
      ).count === 0,
    `${userId} to be settled`,
  );

/** Gives every worker the chance to send what it may. */
async function idle(): Promise<void> {
  await sql`select webhookpub.wake()`;
  await until(
    async () => (await sql`select from graphile_worker.jobs`).count === 0,
    "the jobs to be done",
  );
}

/** A receiver that answers nothing until it is told to. */
async function gated(status: number): Promise<Receiver & { open: () => void }> {
  const receiver = await startReceiver(t);
  const gate = Promise.withResolvers<void>();
  receiver.reply = () => gate.promise.then(() => status);
  return Object.assign(receiver, { open: () => gate.resolve() });
}

void t.test(
  "requests during rotations carry the secret that was and the one that is",
  async (t) => {
    const receiver = await startReceiver(t);
    receiver.reply = () => ({ status: 200, delayMs: 5 });
    const userId = "rotating";
    const { id, secret } = await createWebhook(sql, {
      userId,
      url: receiver.url(),
      maxInFlight: 4,
    });
    const issued: { secret: string; at: string }[] = [];
    const note = async (secret: string) => {
      const [row] = await sql<[{ at: string }]>`
      select created_at as at from webhookpub.secrets
      where webhook_id = ${id} and expires_at is null`;
      issued.push({ secret, at: row.at });
    };
    await note(secret);
    const rounds = 10;
    for (let round = 1; round <= rounds; round++) {
      await publish(sql, { userId, count: 20 });
      // Some of this round's requests come before its rotation, some after it.
      await receiver.received(20 * round - 15);
      await note(await rotate(id));
    }
    await delivered(id, 20 * rounds);

    // The place of the secret that was current when each request was made.
    const attempts = await sql<{ delivery_id: string; current: number }[]>`
    select a.delivery_id, (
      select max(i.n) - 1
      from unnest(${issued.map(({ at }) => at)}::timestamptz[]) with ordinality as i (at, n)
      where i.at <= a.started_at
    )::integer as current
    from webhookpub.attempts as a where a.webhook_id = ${id}`;
    const currentOf = new Map(attempts.map((one) => [one.delivery_id, one.current]));
    const secrets = issued.map((one) => one.secret);
    const seen = new Set<string>();
    const wrong = receiver.requests.flatMap((request) => {
      const current = currentOf.get(String(request.headers["webhook-delivery-id"])) ?? NaN;
      const found = signers(request, secrets);
      seen.add(String(found));
      const [first = NaN, second = first] = found;
      const inOrder = found.length <= 2 && second === first + found.length - 1;
      // While a rotation commits, it is the one before that was current.
      const either = found.includes(current) || found.includes(current - 1);
      const both = current < 2 || found.length === 2;
      return inOrder && either && both ? [] : [`signed with ${String(found)} at ${current}`];
    });
    t.strictSame(wrong, [], "each with the secret before the last rotation or that after it");
    t.ok(seen.size > rounds / 2, `rotated while sending: ${[...seen].join(" / ")}`);
  },
);

void t.test("ten rotations at once, while requests are sent", async (t) => {
  const receiver = await startReceiver(t);
  receiver.reply = () => ({ status: 200, delayMs: 5 });
  const userId = "rotating_at_once";
  const { id, secret } = await createWebhook(sql, { userId, url: receiver.url(), maxInFlight: 4 });
  await publish(sql, { userId, count: 150 });
  await receiver.received(20);
  let rotating = true;
  const live: number[] = [];
  const watching = (async () => {
    while (rotating) {
      const rows = await sql`
        select from webhookpub.secrets
        where webhook_id = ${id} and (expires_at is null or expires_at > clock_timestamp())`;
      live.push(rows.count);
    }
  })();
  const issued = [secret];
  for (let round = 0; round < 5; round++) {
    issued.push(...(await Promise.all(Array.from({ length: 10 }, () => rotate(id)))));
  }
  rotating = false;
  await watching;
  await delivered(id, 150);
  t.strictSame(
    [...new Set(live)].filter((count) => count < 1 || count > 2),
    [],
    `never none and never more than two, looked at ${live.length} times`,
  );
  const unverified = receiver.requests.filter(
    (request) => ![1, 2].includes(signers(request, issued).length),
  );
  t.equal(receiver.requests.length, 150);
  t.strictSame(unverified, [], "every request verifies with one of the secrets, or two");
  const last = await sql<{ secret: string }[]>`
    select secret from webhookpub.secrets where webhook_id = ${id}`;
  t.equal(last.length, 2);
  t.ok(last.every((one) => issued.includes(one.secret)));
});

void t.test("disabled while it sends: nothing more is sent, and nothing is burned", async (t) => {
  for (const status of [200, 500]) {
    const receiver = await gated(status);
    const userId = `disabled_${status}`;
    const { id } = await createWebhook(sql, {
      userId,
      url: receiver.url(),
      maxInFlight: 5,
      retrySchedule: "{1 h}",
      requestTimeout: "30 s",
    });
    await publish(sql, { userId, count: 20 });
    await receiver.received(5);
    await sql`select webhookpub.disable_webhook(${id})`;
    receiver.open();
    await until(
      async () => (await sql`select from webhookpub.attempts where webhook_id = ${id}`).count === 5,
      "the answers",
    );
    await idle();
    t.equal(receiver.requests.length, 5, "only what was under way");
    const waiting = [
      "15 pending after 0",
      status === 200 ? "5 delivered after 1" : "5 pending after 1",
    ];
    t.strictSame(await standing(id), waiting);
    await publish(sql, { userId, count: 3 });
    await until(
      async () =>
        (
          await sql`
            select from webhookpub.events where user_id = ${userId} and status = 'no_match'`
        ).count === 3,
      "the fan-out",
    );
    t.strictSame(await standing(id), waiting, "and it gets nothing new");

    receiver.reply = () => 200;
    await sql`
      update webhookpub.queue set due_at = now()
      where webhook_id = ${id}`;
    await idle();
    t.strictSame(await standing(id), waiting, "nothing that is due is sent");
    await sql`select webhookpub.enable_webhook(${id})`;
    await delivered(id, 20);
    t.strictSame(
      await standing(id),
      status === 200 ? ["20 delivered after 1"] : ["15 delivered after 1", "5 delivered after 2"],
      "what waited has gone on",
    );
  }
});

void t.test("deleted while it sends: the answers are kept, and change nothing", async (t) => {
  for (const status of [200, 500, 410]) {
    const receiver = await gated(status);
    const userId = `deleted_${status}`;
    const { id } = await createWebhook(sql, {
      userId,
      url: receiver.url(),
      maxInFlight: 5,
      retrySchedule: "{}",
      requestTimeout: "30 s",
    });
    await createWebhook(sql, { userId, events: "{webhook.*}", url: receiver.url("/listener") });
    await publish(sql, { userId, count: 12 });
    await receiver.received(5);
    await sql`select webhookpub.delete_webhook(${id})`;
    receiver.open();
    await until(
      async () => (await sql`select from webhookpub.attempts where webhook_id = ${id}`).count === 5,
      "the answers",
    );
    await idle();
    t.strictSame(await standing(id), ["5 cancelled after 1", "7 cancelled after 0"]);
    const [webhook] = await sql`
      select disabled_reason, failing_since, failures, last_delivered_at
      from webhookpub.webhooks where id = ${id}`;
    t.strictSame(webhook, {
      disabled_reason: "deleted",
      failing_since: null,
      failures: 0,
      last_delivered_at: null,
    });
    t.equal(receiver.requests.length, 5, "and nothing is told about it");
    t.equal((await sql`select from webhookpub.secrets where webhook_id = ${id}`).count, 0);
  }
});

/** How often each path of a receiver was asked about each type. */
function told(receiver: Receiver): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { path, headers } of receiver.requests) {
    const type = `${path} ${String(headers["webhook-event-type"])}`;
    counts[type] = (counts[type] ?? 0) + 1;
  }
  return counts;
}

void t.test("a user is told of failures, though everybody fails, and not for ever", async (t) => {
  const receiver = await startReceiver(t);
  receiver.reply = ({ path }) => (path === "/fine" ? 200 : 500);
  const userId = "failing";
  const of = (path: string, events: string, user = userId) =>
    createWebhook(sql, { userId: user, events, url: receiver.url(path), retrySchedule: "{}" });
  const all = await of("/all", "{*}");
  await of("/listener", "{webhook.*}");
  await of("/fine", "{webhook.delivery_failed}");
  await of("/email", "{email.*}");
  await of("/stranger", "{*}", "somebody_else");
  const events = await publish(sql, { userId, count: 3 });
  await settled(userId);
  t.strictSame(told(receiver), {
    "/all email.received": 3,
    "/email email.received": 3,
    "/all webhook.delivery_failed": 6,
    "/listener webhook.delivery_failed": 6,
    "/fine webhook.delivery_failed": 6,
  });

  // A replay that fails is told of, too; one of an operational event is not, nor is a test.
  receiver.requests.length = 0;
  await sql`
    select r.* from webhookpub.events as e
    cross join lateral webhookpub.redeliver(e.id, ${all.id}) as r
    where e.user_id = ${userId} and e.type = 'webhook.delivery_failed'`;
  await sql`select * from webhookpub.redeliver(${events[0]!}, ${all.id})`;
  await sql`select webhookpub.test_webhook(${all.id}, 'email.sent')`;
  await settled(userId);
  t.strictSame(told(receiver), {
    "/all email.received": 1,
    "/all email.sent": 1,
    "/all webhook.delivery_failed": 7,
    "/listener webhook.delivery_failed": 1,
    "/fine webhook.delivery_failed": 1,
  });
});

void t.test("webhooks that are gone one after the other are told of once each", async (t) => {
  const receiver = await startReceiver(t);
  receiver.reply = ({ path }) => (path === "/fine" ? 200 : 410);
  const userId = "gone";
  const of = (path: string, events: string) =>
    createWebhook(sql, { userId, events, url: receiver.url(path) });
  const first = await of("/email", "{email.*}");
  const second = await of("/all", "{*}");
  const third = await of("/listener", "{webhook.disabled}");
  await of("/fine", "{webhook.*}");
  await publish(sql, { userId });
  await settled(userId);
  const notices = receiver.requests
    .filter(({ path }) => path === "/fine")
    .map(({ body }) => JSON.parse(body) as { event: string; data: Record<string, string> });
  const about = (type: string) =>
    notices
      .filter(({ event }) => event === type)
      .map(({ data }) => String(data["webhook_id"]))
      .toSorted();
  t.strictSame(about("webhook.disabled"), [first.id, second.id, third.id].toSorted());
  // Those of email.received; about a delivery of a webhook.* event there is none.
  t.strictSame(about("webhook.delivery_failed"), [first.id, second.id].toSorted());
  t.ok(
    notices.every(({ event, data }) => event !== "webhook.disabled" || data["reason"] === "gone"),
  );
});

for (const { what, status, hold, expected } of [
  {
    what: "changes",
    status: 200,
    hold: (one: Sql, id: string) =>
      one`select webhookpub.update_webhook(${id}, p_description => 'new')`,
    expected: "delivered",
  },
  {
    what: "changes, and that is gone,",
    status: 410,
    hold: (one: Sql, id: string) =>
      one`select webhookpub.update_webhook(${id}, p_description => 'new')`,
    expected: "failed",
  },
  {
    what: "deletes",
    status: 200,
    hold: (one: Sql, id: string) => one`select webhookpub.delete_webhook(${id})`,
    expected: "cancelled",
  },
]) {
  void t.test(`a webhook that an open transaction ${what} holds up no other`, async (t) => {
    const receiver = await startReceiver(t);
    const gates = [1, 2, 3, 4].map(() => Promise.withResolvers<void>());
    receiver.reply = async ({ path }, n) => {
      if (path !== "/held") return 200;
      await gates[n - 1]?.promise;
      return status;
    };
    const userId = `held: ${what} ${status}`;
    const held = await createWebhook(sql, { userId, url: receiver.url("/held") });
    const other = await createWebhook(sql, {
      userId: `not ${userId}`,
      url: receiver.url("/other"),
    });
    await publish(sql, { userId, count: gates.length });
    await receiver.received(gates.length);

    const application = session();
    await application`begin`;
    await hold(application, held.id);
    // Its answers come one by one, so that they do not all go into one record.
    for (const [i, gate] of gates.entries()) {
      gate.resolve();
      await publish(sql, { userId: `not ${userId}` });
      await delivered(other.id, i + 1);
    }
    await application`commit`;
    await until(
      async () =>
        (await sql`select from webhookpub.attempts where webhook_id = ${held.id}`).count ===
        gates.length,
      "its answers",
    );
    t.strictSame(await standing(held.id), [`${gates.length} ${expected} after 1`]);
    const paths = receiver.requests.map(({ path }) => path).sort();
    t.strictSame(
      paths,
      [...gates.map(() => "/held"), ...gates.map(() => "/other")],
      "nothing was sent twice",
    );
  });
}
