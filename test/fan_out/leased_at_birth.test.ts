import t from "tap";
import {
  fanOutBatch,
  leaseDeliveries,
  type LeasedRequest,
  leaseRequests,
} from "../../src/database/calls.ts";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** How many of what a fan-out makes are leased, for each of these webhooks. */
async function born(sql: Sql, ids: readonly string[], room: number): Promise<number[]> {
  const batch = await fanOutBatch(sql, room);
  const leased = batch.leased_webhook_ids ?? [];
  return ids.map((id) => leased.filter((one) => one === id).length);
}

void t.test(
  "what a worker can send at once is born leased, within its webhook's limits",
  async (t) => {
    const { sql, session } = await testDatabase(t);
    const user = async (userId: string, options = {}) => {
      const { id } = await createWebhook(sql, { userId, ...options });
      return async (room: number, count = 10) => {
        await publish(sql, { userId, count });
        return { id, born: (await born(sql, [id], room))[0] };
      };
    };
    const well = await user("well");
    const { id, born: first } = await well(100);
    t.equal(first, 4, "a few of each webhook");
    const [state] = await sql`
    select count(*) filter (where q.leased)::integer as leased, count(*)::integer as all,
      count(*) filter (where q.leased and q.attempt = 1 and q.due_at > h.created_at + interval '29 s')::integer
        as lasting
    from webhookpub.queue as q
    join webhookpub.delivery_history as h on h.id = q.delivery_id`;
    t.strictSame(state, { leased: 4, all: 10, lasting: 4 });
    t.equal((await well(100)).born, 0, "what waits goes first");
    t.equal((await leaseDeliveries(sql, [id], [100])).leases.length, 16, "20 in flight, no more");

    t.equal((await (await user("no room"))(0)).born, 0, "none without room");
    t.equal((await (await user("little room"))(2)).born, 2);
    t.equal((await (await user("narrow", { maxInFlight: 1 }))(100)).born, 1);
    for (const [what, change] of Object.entries({
      "an open circuit": "circuit_opened_at = now(), circuit_retry_at = now() + interval '1 h'",
      "a receiver that does not answer": "unanswered = 1",
    })) {
      const next = await user(what);
      await sql.unsafe(`update webhookpub.webhooks set ${change} where user_id = '${what}'`);
      t.equal((await next(100)).born, 0, what);
    }
    const bare = await user("no secret");
    await sql`
    delete from webhookpub.secrets
    where webhook_id = (select id from webhookpub.webhooks where user_id = 'no secret')`;
    t.equal((await bare(100)).born, 0, "no secret");

    const busy = await user("busy");
    const holder = session();
    const { id: held } = await busy(0, 1);
    await sql`select webhookpub.end_deliveries(array(select delivery_id from webhookpub.queue), 'failed')`;
    await holder`begin`;
    await holder`select from webhookpub.lease_deliveries(${[held]})`;
    t.equal((await busy(100)).born, 0, "somebody leases for it at this moment");
    await holder`rollback`;
  },
);

void t.test("one webhook that has something waiting keeps others from nothing", async (t) => {
  const { sql } = await testDatabase(t);
  const { id: behind } = await createWebhook(sql, { userId: "behind" });
  const { id: well } = await createWebhook(sql, { userId: "well" });
  await publish(sql, { userId: "behind", count: 3 });
  t.strictSame(await born(sql, [behind], 0), [0]);
  for (const userId of ["behind", "well"]) await publish(sql, { userId, count: 2 });
  t.strictSame(await born(sql, [behind, well], 100), [0, 2]);
});

void t.test("one batch leases no more than there is room for, over all its webhooks", async (t) => {
  const { sql } = await testDatabase(t);
  const ids: string[] = [];
  for (let i = 0; i < 10; i += 1) ids.push((await createWebhook(sql)).id);
  await publish(sql, { count: 3 });
  const counts = await born(sql, ids, 7);
  const sum = counts.reduce((all, one) => all + one, 0);
  t.ok(sum > 3 && sum <= 7, `${sum} of 30`);
});

void t.test(
  "at rest nothing is leased, and each delivery is one row that comes and goes",
  async (t) => {
    const { sql, url } = await testDatabase(t);
    const receiver = await startReceiver(t);
    await createWebhook(sql, { url: receiver.url() });
    await startWorkerProcess(t, url);
    for (let n = 1; n <= 5; n += 1) {
      await publish(sql);
      await receiver.received(n);
      await until(
        async () => (await sql`select from webhookpub.queue`).count === 0,
        "the queue to be empty",
      );
    }
    // Each session tells of what it did, in its own time.
    await until(async () => {
      const [stat] = await sql<[{ all: boolean }]>`
      select n_tup_del = 5 and n_tup_ins >= 5 as all
      from pg_stat_user_tables where relid = 'webhookpub.queue'::regclass`;
      return stat.all;
    }, "the statistics");
    const [stat] = await sql`
    select n_tup_ins::integer as made, n_tup_upd::integer as changed
    from pg_stat_user_tables where relid = 'webhookpub.queue'::regclass`;
    t.strictSame(stat, { made: 5, changed: 0 });
  },
);

void t.test(
  "what to POST goes along, where it is little, and is what a worker would ask",
  async (t) => {
    const { sql } = await testDatabase(t);
    await createWebhook(sql, { userId: "little" });
    await publish(sql, {
      userId: "little",
      data: JSON.stringify({ text: 'Grüße, "\\ \u0001 😀' }),
    });
    const little = await fanOutBatch(sql, 100);
    const asked = await leaseRequests(sql, little.leased_ids ?? []);
    const plain = (requests: readonly LeasedRequest[] | null) =>
      // They are signed when they are asked for.
      requests?.map((request) => ({ ...request, signature: "", signed_at: 0 }));
    t.strictSame(plain(little.requests), plain(asked));
    t.match(little.requests, [{ signature: /^v1,/, signed_at: Number }]);

    await createWebhook(sql, { userId: "much" });
    await publish(sql, { userId: "much", data: JSON.stringify({ text: "x".repeat(6000) }) });
    t.match(
      await fanOutBatch(sql, 100),
      { leased_ids: [String], requests: null },
      "not what is large",
    );
    for (let i = 0; i < 6; i++) await createWebhook(sql, { userId: "many" });
    await publish(sql, { userId: "many" });
    const many = await fanOutBatch(sql, 100);
    t.equal(many.leased_ids?.length, 6);
    t.equal(many.requests, null, "nor what is many");
    await createWebhook(sql, { userId: "broken" });
    await sql`update webhookpub.secrets set secret = 'whsec_%' where webhook_id in (
    select id from webhookpub.webhooks where user_id = 'broken')`;
    await publish(sql, { userId: "broken" });
    const broken = await fanOutBatch(sql, 100);
    t.match(broken, { event_count: 1, requests: null }, "what can't be signed fails no fan-out");
    t.match(await leaseRequests(sql, broken.leased_ids ?? []), [{ problem: /can't be signed/ }]);

    for (const maxInFlight of [10, 11]) {
      await createWebhook(sql, { userId: `room ${maxInFlight}`, maxInFlight });
      await publish(sql, { userId: `room ${maxInFlight}` });
      const { requests } = await fanOutBatch(sql, 100);
      t.match(requests, [{ awaited: maxInFlight === 10 }], "others wait for little room");
    }
    // As when an upgrade of pgcrypto went wrong.
    await sql`
      create or replace function webhookpub.hmac_sha256(p_message bytea, p_key bytea) returns bytea
      language plpgsql immutable as
      $$ begin raise exception using errcode = '39000', message = 'no hmac'; end $$`;
    await publish(sql, { userId: "little" });
    const unsigned = await fanOutBatch(sql, 100);
    t.match(unsigned, { event_count: 1, requests: null }, "nor a server that can't sign");
    t.match(await leaseRequests(sql, unsigned.leased_ids ?? []), [{ problem: /no hmac/ }]);
  },
);
