// What travels between a lease and its POST: bounded, and nobody suffers from another's.
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { leaseRequests } from "../../src/database/calls.ts";
import { testDatabase } from "../support/database.ts";
import { leaseDeliveries } from "../support/leases.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const MB = 1_000_000;

/** Events for the user, each of about so many bytes. */
async function publishLarge(sql: Sql, bytes: number, count: number): Promise<void> {
  await sql`update webhookpub.settings set max_payload_bytes = 16777216`;
  await publish(sql, { count, data: JSON.stringify({ text: "x".repeat(bytes) }) });
  while ((await sql`select from webhookpub.fan_out() where event_count > 0`).count > 0);
}

void t.test("requests travel in 8 MB at a time, and one at least", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await publishLarge(sql, MB, 12);
  const ids = (await leaseDeliveries(sql, [id])).map((lease) => lease.delivery_id);
  t.equal(ids.length, 12, "all are leased");
  const first = await leaseRequests(sql, ids);
  t.strictSame(
    first.map((request) => request.delivery_id),
    ids.slice(0, 8),
    "the first ones, in order",
  );
  t.strictSame(
    (await leaseRequests(sql, ids.slice(8))).map((request) => request.delivery_id),
    ids.slice(8),
    "then the others",
  );

  await publishLarge(sql, 9 * MB, 2);
  const large = (await leaseDeliveries(sql, [id])).map((lease) => lease.delivery_id);
  t.equal(large.length, 2);
  t.equal((await leaseRequests(sql, large)).length, 1, "larger ones go alone");
});

void t.test("a worker sends all of what does not travel at once", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createWebhook(sql, { url: receiver.url() });
  await publishLarge(sql, MB, 20);
  await startWorkerProcess(t, url);
  await until(
    async () =>
      (await sql`select from webhookpub.deliveries where status = 'delivered'`).count === 20,
    "all to arrive",
  );
  t.equal(receiver.requests.length, 20, "each once");
});

void t.test("a secret that can't sign is its webhook's alone", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const webhooks: string[] = [];
  for (const scheme of ["standard", "standard", "stripe"] as const) {
    webhooks.push((await createWebhook(sql, { url: receiver.url(), scheme })).id);
  }
  const [culprit = "", ...others] = webhooks;
  // What only a hand can have written.
  await sql`update webhookpub.secrets set secret = 'whsec_!' where webhook_id = ${culprit}`;
  await publish(sql, { count: 10 });
  await sql`select webhookpub.fan_out()`;
  const leases = await leaseDeliveries(sql, webhooks);
  const requests = await leaseRequests(
    sql,
    leases.map((lease) => lease.delivery_id),
  );
  const owner = new Map(leases.map((lease) => [lease.delivery_id, lease.webhook_id]));
  const refused = requests.filter(({ problem }) => problem !== null);
  t.equal(requests.length, 20, "some at a time, for each was tried by itself");
  t.ok(refused.length > 0 && refused.length < 20);
  t.ok(refused.every(({ delivery_id }) => owner.get(delivery_id) === culprit));
  t.match(refused[0]?.problem, /^it can't be signed: .*base64.* \(22023\)$/);

  await sql`update webhookpub.queue set leased = false, attempt = 0, due_at = now()`;
  await startWorkerProcess(t, url);
  const delivered = (ids: string[]) => async () =>
    (
      await sql`
          select from webhookpub.deliveries
          where webhook_id = any (${ids}) and status = 'delivered'`
    ).count ===
    10 * ids.length;
  await until(delivered(others), "the others");
  const kept = async () =>
    await sql<{ attempts: number; last_error: string }[]>`
        select distinct attempts, last_error from webhookpub.delivery_log
        where webhook_id = ${culprit} and last_error is not null`;
  await until(async () => (await kept()).length > 0, "the error that an operator sees");
  t.match([...(await kept())], [{ last_error: /^it can't be signed/ }]);
  t.equal(receiver.requests.length, 20, "nothing went out unsigned");

  await sql`select webhookpub.rotate_secret(${culprit}, '0')`;
  await sql`update webhookpub.queue set due_at = now() where not leased`;
  await until(delivered([culprit]), "with a new secret it goes on");
});
