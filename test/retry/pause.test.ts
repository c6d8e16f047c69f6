// A receiver that answers with Retry-After wants to be left alone, and is.
import t from "tap";
import { recordAttempts } from "../../src/database/calls.ts";
import type { Sql } from "../../src/database/connect.ts";
import { answerTo } from "../../src/deliver/answer.ts";
import { testDatabase } from "../support/database.ts";
import { leaseDeliveries } from "../support/leases.ts";
import { createWebhook, publish } from "../support/scene.ts";

/** Leases one delivery and answers it. */
async function answerOne(
  sql: Sql,
  id: string,
  statusCode: number,
  retryAfter: string | null,
): Promise<void> {
  const [leased] = await leaseDeliveries(sql, [id], [1]);
  if (!leased) throw new Error("nothing was leased");
  const outcome = { kind: "responded", statusCode, body: "", retryAfter } as const;
  await recordAttempts(sql, [answerTo(leased, outcome, 1)]);
}

/** Until when a webhook is left alone; null: it is not. */
async function pauseOf(sql: Sql, id: string): Promise<string | null> {
  const [row] = await sql<[{ until: string | null }]>`
    select h.paused_until as until
    from webhookpub.webhook_health as h where h.webhook_id = ${id}`;
  return row.until;
}

/** Records an answer and says whether its webhook is then left alone for so long, whatever time the call took. */
async function pausesFor(
  sql: Sql,
  id: string,
  seconds: number,
  recording: () => Promise<unknown>,
): Promise<boolean> {
  const [{ begun }] = await sql<[{ begun: string }]>`select clock_timestamp() as begun`;
  await recording();
  const [{ within }] = await sql<[{ within: boolean }]>`
    select ${await pauseOf(sql, id)}::timestamptz - make_interval(secs => ${seconds})
      between ${begun}::timestamptz and clock_timestamp() as within`;
  return within;
}

void t.test("an answer with Retry-After pauses its webhook, and no other", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const other = await createWebhook(sql);
  await publish(sql, { count: 20 });
  await sql`select webhookpub.fan_out()`;

  await answerOne(sql, id, 500, "60");
  t.equal(await pauseOf(sql, id), null, "not with a 500");
  await answerOne(sql, id, 429, null);
  t.equal(await pauseOf(sql, id), null, "not without the header");
  t.ok(await pausesFor(sql, id, 60, () => answerOne(sql, id, 429, "60")));
  t.strictSame(await leaseDeliveries(sql, [id]), [], "nothing goes out");
  t.equal((await leaseDeliveries(sql, [other.id])).length, 20, "but to others");
  const waiting = await sql`
    select distinct waits_for from webhookpub.delivery_log
    where webhook_id = ${id} and attempts = 0`;
  t.strictSame([...waiting], [{ waits_for: "end of pause" }]);
  const due = await sql`select deliveries_due::integer, oldest_due from webhookpub.backlog`;
  t.strictSame([...due], [{ deliveries_due: 0, oldest_due: null }], "nobody is to be told of it");
  await sql`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;
  await sql`select webhookpub.wake()`;
  t.equal(
    (await sql`select from graphile_worker.jobs where key = ${id}`).count,
    0,
    "nobody is woken",
  );

  /** Whether so many go out so long after the pause, and one more for each second that it takes. */
  const back = async (since: string, expected: number) => {
    await sql`update webhookpub.webhooks set paused_until = now() - ${since}::interval where id = ${id}`;
    const { length } = await leaseDeliveries(sql, [id]);
    const [{ most }] = await sql<[{ most: number }]>`
      select least(20, 1 + floor(extract(epoch from clock_timestamp() - paused_until)))::integer
        as most
      from webhookpub.webhooks where id = ${id}`;
    await sql`update webhookpub.queue set leased = false, due_at = now() where webhook_id = ${id}`;
    return length >= expected && length <= most;
  };
  t.ok(await back("0.1 s", 1), "then one at a time");
  t.ok(await back("3.5 s", 4), "and one more with each second");
  t.ok(await back("1 min", 20), "until it has all that it may");

  await sql`update webhookpub.webhooks set paused_until = now() - interval '1 s' where id = ${id}`;
  await sql`select webhookpub.wake('10 seconds')`;
  t.equal((await sql`select from graphile_worker.jobs where key = ${id}`).count, 1, "it is woken");

  await sql`update webhookpub.webhooks set paused_until = null where id = ${id}`;
  t.ok(await pausesFor(sql, id, 3600, () => answerOne(sql, id, 503, "86400")), "an hour at most");
  await sql`select webhookpub.enable_webhook(${id})`;
  t.equal(await pauseOf(sql, id), null, "an operator ends it");
});

void t.test("the pause that an answer asks for begins, whoever holds the webhook", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await publish(sql, { count: 2 });
  await sql`select webhookpub.fan_out()`;
  const answers = (await leaseDeliveries(sql, [id])).map((leased, i) =>
    answerTo(
      leased,
      { kind: "responded", statusCode: 429, body: "", retryAfter: i === 0 ? "60" : null },
      1,
    ),
  );
  await sql.begin(async (tx) => {
    await tx`select from webhookpub.webhooks where id = ${id} for update`;
    const { held_ids } = await recordAttempts(sql, answers);
    t.strictSame(held_ids, [answers[0]!.deliveryId], "only what asks for one is told later");
  });
  const held = async () => (await recordAttempts(sql, answers.slice(0, 1))).held_ids;
  t.ok(await pausesFor(sql, id, 60, async () => t.strictSame(await held(), [])));
});
