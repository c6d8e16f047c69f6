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

/** How long a webhook is left alone, in seconds; null: it is not. */
async function pauseOf(sql: Sql, id: string): Promise<number | null> {
  const [row] = await sql<[{ seconds: number | null }]>`
    select round(extract(epoch from h.paused_until - now()))::integer as seconds
    from webhookpub.webhook_health as h where h.webhook_id = ${id}`;
  return row.seconds;
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
  await answerOne(sql, id, 429, "60");
  t.equal(await pauseOf(sql, id), 60);
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

  const back = async (since: string) => {
    await sql`update webhookpub.webhooks set paused_until = now() - ${since}::interval where id = ${id}`;
    const leases = await leaseDeliveries(sql, [id]);
    await sql`update webhookpub.queue set leased = false, due_at = now() where webhook_id = ${id}`;
    return leases.length;
  };
  t.equal(await back("0.1 s"), 1, "then one at a time");
  t.equal(await back("3.5 s"), 4, "and one more with each second");
  t.equal(await back("1 min"), 20, "until it has all that it may");

  await sql`update webhookpub.webhooks set paused_until = now() - interval '1 s' where id = ${id}`;
  await sql`select webhookpub.wake('10 seconds')`;
  t.equal((await sql`select from graphile_worker.jobs where key = ${id}`).count, 1, "it is woken");

  await sql`update webhookpub.webhooks set paused_until = null where id = ${id}`;
  await answerOne(sql, id, 503, "86400");
  t.equal(await pauseOf(sql, id), 3600, "an hour at most");
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
  t.strictSame((await recordAttempts(sql, answers.slice(0, 1))).held_ids, []);
  t.equal(await pauseOf(sql, id), 60);
});
