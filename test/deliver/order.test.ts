// Ordered webhooks get what has one ordering key one after another, in the order of its events.
import t from "tap";
import { recordAttempts } from "../../src/database/calls.ts";
import type { Sql } from "../../src/database/connect.ts";
import { answerTo } from "../../src/deliver/answer.ts";
import { testDatabase } from "../support/database.ts";
import { leaseDeliveries } from "../support/leases.ts";
import { randomFrom } from "../support/random.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { backendOf, untilBlocked } from "../support/waiting.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** The events that a lease of these webhooks brings, in the order of their publishing. */
async function leaseAll(sql: Sql, ids: readonly string[], limit = 1000) {
  const leases = await leaseDeliveries(
    sql,
    ids,
    ids.map(() => limit),
  );
  const rows = await sql<{ id: string; event_id: string }[]>`
    select d.id, d.event_id from webhookpub.deliveries as d
    where d.id = any (${leases.map((lease) => lease.delivery_id)})
    order by d.event_created_at`;
  return rows.map((row) => ({
    eventId: row.event_id,
    lease: leases.find((lease) => lease.delivery_id === row.id)!,
  }));
}

const events = (leased: Awaited<ReturnType<typeof leaseAll>>) => leased.map((one) => one.eventId);

async function answer(sql: Sql, leased: Awaited<ReturnType<typeof leaseAll>>, statusCode: number) {
  const outcome = { kind: "responded", statusCode, body: "", retryAfter: null } as const;
  return await recordAttempts(
    sql,
    leased.map(({ lease }) => answerTo(lease, outcome, 1)),
  );
}

/** What a retry waits for is over. */
const endPauses = (sql: Sql) => sql`
  update webhookpub.queue set due_at = now() where not leased and due_at < 'infinity'`;

/** Publishes events with these ordering keys, one after another. */
async function publishKeys(sql: Sql, keys: readonly (string | undefined)[]): Promise<string[]> {
  const ids: string[] = [];
  for (const key of keys) ids.push(...(await publish(sql, key === undefined ? {} : { key })));
  return ids;
}

void t.test("one key after another, others and those without one beside it", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true, retrySchedule: "{1 min}" });
  const other = await createWebhook(sql);
  const [a1, a2, b1, none, a3, b2] = await publishKeys(sql, ["a", "a", "b", undefined, "a", "b"]);
  await fanOutAll(sql);

  t.equal((await leaseAll(sql, [other.id])).length, 6, "no order where none is asked for");
  let leased = await leaseAll(sql, [id]);
  t.strictSame(events(leased), [a1, b1, none]);
  t.strictSame(events(await leaseAll(sql, [id])), [], "nothing overtakes");

  const ready = await answer(sql, leased.slice(1), 200);
  t.strictSame(ready.ready_webhook_ids, [id], "whoever records hears that a turn has passed");
  t.strictSame((await answer(sql, leased.slice(0, 1), 500)).ready_webhook_ids, null);
  leased = await leaseAll(sql, [id]);
  t.strictSame(events(leased), [b2], "a failing head holds its key, and no other");
  await endPauses(sql);
  const retried = await leaseAll(sql, [id]);
  t.strictSame(events(retried), [a1], "its retry");
  await answer(sql, retried, 500);
  leased = await leaseAll(sql, [id]);
  t.strictSame(events(leased), [a2], "when it has failed for good, the next goes");
  await answer(sql, leased, 200);
  t.strictSame(events(await leaseAll(sql, [id])), [a3]);
});

void t.test("whatever the clock and the calendar of a publisher's time zone are", async (t) => {
  const { sql, session } = await testDatabase(t);
  await createWebhook(sql, { ordered: true });
  const abroad = session();
  // Where clocks are put forward by two hours tomorrow, and back in a fortnight.
  const [zone] = await sql<[{ name: string }]>`
    select format(
      'AAA0BBB-2,J%s/0,J%s/0',
      least(365, extract(doy from now() + interval '1 day')),
      least(365, extract(doy from now() + interval '14 days'))
    ) as name`;
  await abroad`select set_config('timezone', ${zone.name}, false)`;
  const [{ hours }] = await abroad<[{ hours: number }]>`
    select (extract(epoch from now() + interval '7 days' - now()) / 3600)::integer as hours`;
  t.equal(hours, 7 * 24 - 2, zone.name);

  for (const retention of ["7 days", "1 month"]) {
    await sql`update webhookpub.settings set event_retention = ${retention}`;
    const [first] = await publish(sql, { key: retention });
    await publish(abroad, { key: retention });
    const kept = await sql`
      select distinct extract(epoch from expires_at - created_at)::integer / 86400 as days
      from webhookpub.events where ordering_key = ${retention}`;
    t.strictSame([...kept], [{ days: retention === "7 days" ? 7 : 30 }], `kept for ${retention}`);
    await sql`select webhookpub.fan_out(1)`;
    const gone = await sql`
      select id from webhookpub.events where ordering_key = ${retention} and status <> 'pending'`;
    t.strictSame([...gone], [{ id: first }], "the first goes first");
    await fanOutAll(sql);
  }
});

void t.test("what comes later waits behind what is there, in one batch or in many", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const [a1] = await publishKeys(sql, ["a"]);
  await fanOutAll(sql);
  const first = await leaseAll(sql, [id]);
  t.strictSame(events(first), [a1]);
  const [a2] = await publishKeys(sql, ["a"]);
  await fanOutAll(sql);
  const [a3, a4] = await publishKeys(sql, ["a", "a"]);
  await fanOutAll(sql);
  const order: (string | undefined)[] = [];
  for (let leased = first; leased.length > 0; leased = await leaseAll(sql, [id])) {
    t.equal(leased.length, 1);
    order.push(...events(leased));
    await answer(sql, leased, 200);
  }
  t.strictSame(order, [a1, a2, a3, a4]);
});

void t.test("an event that commits late goes before what still waits", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const late = session();
  await late`begin`;
  const [a1] = await publish(late, { key: "a" });
  const [a2, a3] = await publishKeys(sql, ["a", "a"]);
  await fanOutAll(sql);
  const leased = await leaseAll(sql, [id]);
  t.strictSame(events(leased), [a2], "what nobody can see is not waited for");
  await late`commit`;
  await fanOutAll(sql);
  await answer(sql, leased, 200);
  const next = await leaseAll(sql, [id]);
  t.strictSame(events(next), [a1]);
  await answer(sql, next, 200);
  t.strictSame(events(await leaseAll(sql, [id])), [a3]);
});

void t.test("an event never overtakes one that another fan-out is busy with", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const [a1, b1] = await publishKeys(sql, ["a", "b"]);
  const busy = session();
  await busy`begin`;
  await busy`select from webhookpub.events where id = ${a1!} for update`;
  const [a2] = await publishKeys(sql, ["a"]);
  await sql`select webhookpub.fan_out()`;
  const leased = await leaseAll(sql, [id]);
  t.strictSame(events(leased), [b1], "other keys go on");
  await busy`commit`;
  await fanOutAll(sql);
  const first = await leaseAll(sql, [id]);
  t.strictSame(events(first), [a1]);
  await answer(sql, first, 200);
  t.strictSame(events(await leaseAll(sql, [id])), [a2]);
});

void t.test("an event whose fan-out fails holds its key, and nobody else", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const [a1] = await publishKeys(sql, ["a"]);
  await sql`
    update webhookpub.events
    set last_error = 'it fails', retry_at = now() + interval '1 hour' where id = ${a1!}`;
  await sql`
    select webhook_publish_tx('email.received', 'user_1', '{}', ordering_key => 'a')
    from generate_series(1, 600)`;
  const [b1] = await publishKeys(sql, ["b"]);
  for (let i = 0; i < 3; i += 1) await sql`select webhookpub.fan_out()`;
  t.strictSame(events(await leaseAll(sql, [id])), [b1], "600 of its key are in nobody's way");
  const later = await sql`
    select from webhookpub.events where id <> ${a1!} and retry_at > now() + interval '30 seconds'`;
  t.equal(later.count, 600, "and not looked at again and again");
  await sql`update webhookpub.events set retry_at = null, last_error = null`;
  await fanOutAll(sql);
  t.strictSame(events(await leaseAll(sql, [id])), [a1]);
});

void t.test("whatever an event waits for, other keys and others without one do not", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  /** More than a batch takes, and one behind them. */
  const flood = async (key: string) => {
    await sql`
      select webhook_publish_tx('email.received', 'user_1', '{}', ordering_key => ${key})
      from generate_series(1, 600)`;
    return await publishKeys(sql, ["b"]);
  };
  const open = session();

  const [a1] = await publishKeys(sql, ["a"]);
  await open`begin`;
  await open`select from webhookpub.events where id = ${a1!} for update`;
  let behind = await flood("a");
  await sql`select webhookpub.fan_out()`;
  t.strictSame(events(await leaseAll(sql, [id])), behind, "while somebody has the first");
  await open`commit`;

  await publishKeys(sql, ["c"]);
  await fanOutAll(sql);
  await open`begin`;
  await open`
    select webhookpub.skip(q.delivery_id) from webhookpub.queue as q
    where q.ordering_key = 'c'`;
  behind = [...(await flood("c")), ...(await publishKeys(sql, [undefined]))];
  await sql`select webhookpub.fan_out()`;
  const waiting = await sql`
    select from webhookpub.events where id = any (${behind}) and status = 'pending'`;
  t.equal(waiting.count, 0, "while somebody has what they come behind");
  await open`rollback`;
});

void t.test("a snapshot from before something came behind loses no turn", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  for (const steering of [
    "select webhookpub.skip(q.delivery_id) from webhookpub.queue as q where q.turn_at is null",
    `select webhookpub.update_webhook('${id}', p_ordered => false)`,
    `select webhookpub.park_lost('infinity')`,
  ]) {
    await publishKeys(sql, ["a"]);
    await fanOutAll(sql);
    await leaseAll(sql, [id]);
    await sql`update webhookpub.queue set suspicion = 3`;
    const old = session();
    await old`begin isolation level repeatable read`;
    await old`select from webhookpub.queue`;
    await publishKeys(sql, ["a"]);
    await fanOutAll(sql);
    await t.rejects(old.unsafe(steering), { code: "40001" }, steering);
    await old`rollback`;
    const [row] = await sql`
      select count(*)::integer as all, count(turn_at)::integer as waiting from webhookpub.queue`;
    t.strictSame(row, { all: 2, waiting: 1 });
    await sql`delete from webhookpub.queue`;
  }
});

void t.test("nothing overtakes an event that is kept for longer", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const [a1] = await publishKeys(sql, ["a"]);
  await sql`
    update webhookpub.events
    set last_error = 'it fails', retry_at = now() + interval '1 hour',
      pending_user_id = chr(1) || user_id`;
  await sql`update webhookpub.settings set event_retention = '7 days'`;
  await publishKeys(sql, ["a"]);
  await fanOutAll(sql);
  t.strictSame(events(await leaseAll(sql, [id])), []);
  await sql`update webhookpub.events set retry_at = null`;
  await sql`select webhookpub.fan_out()`;
  t.strictSame(events(await leaseAll(sql, [id])), [a1]);
});

void t.test("skip cancels a delivery, and the next goes", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const [a1, a2, a3] = await publishKeys(sql, ["a", "a", "a"]);
  await fanOutAll(sql);
  const log = async (eventId: string | undefined) => {
    const [row] = await sql<
      {
        delivery_id: string;
        status: string;
        waits_for: string | null;
        waits_for_delivery_id: string | null;
      }[]
    >`
      select delivery_id, status, waits_for, waits_for_delivery_id
      from webhookpub.delivery_log where event_id = ${eventId ?? ""}`;
    return row!;
  };
  const [first, second] = [await log(a1), await log(a2)];
  t.match(second, {
    status: "pending",
    waits_for: "turn",
    waits_for_delivery_id: first.delivery_id,
  });
  t.match(await log(a1), { waits_for: "worker", waits_for_delivery_id: null });
  const [state] =
    await sql`select next_attempt_at from webhookpub.deliveries where event_id = ${a2!}`;
  t.strictSame(state, { next_attempt_at: null });

  await sql`select webhookpub.skip(${second.delivery_id})`;
  t.match(await log(a2), { status: "cancelled", waits_for: null });
  t.strictSame(events(await leaseAll(sql, [id])), [a1], "one that waits takes no turn with it");
  await sql`select webhookpub.skip(${first.delivery_id})`;
  t.strictSame(events(await leaseAll(sql, [id])), [a3], "a head passes it on");
  t.equal((await sql`select from graphile_worker.jobs where key = ${id}`).count, 1, "with a job");

  await t.rejects(sql`select webhookpub.skip(${first.delivery_id})`, { code: "WH022" });
  await t.rejects(sql`select webhookpub.skip('whd_none')`, { code: "WH020" });
  await t.rejects(sql`select webhookpub.skip(null)`, { code: "WH020" });
});

void t.test("order is switched on and off with deliveries pending", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const before = await publishKeys(sql, ["a", "a"]);
  await fanOutAll(sql);
  await sql`select webhookpub.update_webhook(${id}, p_ordered => true)`;
  const ordered = await publishKeys(sql, ["a", "a", "a"]);
  await fanOutAll(sql);
  const leased = await leaseAll(sql, [id]);
  t.strictSame(events(leased), [...before, ordered[0]], "what was there goes as it would have");
  await sql`select webhookpub.update_webhook(${id}, p_ordered => false)`;
  const after = await publishKeys(sql, ["a", "a"]);
  await fanOutAll(sql);
  const rest = await leaseAll(sql, [id]);
  t.strictSame(events(rest), [ordered[1], ordered[2], ...after], "all that waited is due");
  await answer(sql, [...leased, ...rest], 200);
  t.equal((await sql`select from webhookpub.queue`).count, 0, "nothing is left behind");
});

void t.test("replays, tests and the direct path", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const [a1, a2] = await publishKeys(sql, ["a", "a"]);
  await fanOutAll(sql);
  await sql`select webhookpub.redeliver(${a2!}, ${id})`;
  await sql`select webhookpub.test_webhook(${id})`;
  t.equal((await leaseAll(sql, [id])).length, 3, "replays and tests are outside the order");

  const [direct] = await sql<[{ id: string }]>`
    select webhook_publish('email.received', 'user_1', '{}', ordering_key => 'a') as id`;
  const [event] = await sql`select status from webhookpub.events where id = ${direct.id}`;
  t.strictSame(event, { status: "pending" }, "the fan-out keeps the order");
  await fanOutAll(sql);
  t.strictSame(events(await leaseAll(sql, [id])), []);
  t.ok(a1);
});

void t.test("deleting waits for a skip, and neither for the other", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const late = session();
  await late`begin`;
  await publish(late, { key: "a" });
  await publishKeys(sql, ["a"]);
  await fanOutAll(sql);
  await late`commit`;
  await fanOutAll(sql);
  const [head] = await sql<[{ id: string; is_last: boolean }]>`
    select q.delivery_id as id, q.delivery_id = max(q.delivery_id) over () as is_last
    from webhookpub.queue as q order by q.turn_at nulls first limit 1`;
  t.ok(head.is_last, "what waits has the lower id");

  const [holder, skipping, deleting] = [session(), session(), session()];
  await holder`begin`;
  await holder`select from webhookpub.queue where delivery_id = ${head.id} for update`;
  const skipPid = await backendOf(skipping);
  const deletePid = await backendOf(deleting);
  const both = [skipping`select webhookpub.skip(${head.id})`.execute()];
  await untilBlocked(sql, skipPid);
  both.push(deleting`select webhookpub.delete_webhook(${id})`.execute());
  await untilBlocked(sql, deletePid);
  await holder`commit`;
  await Promise.all(both);
  t.equal((await sql`select from webhookpub.queue`).count, 0);
});

void t.test("deleting cancels what waits, too", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  await publishKeys(sql, ["a", "a", "b", undefined]);
  await fanOutAll(sql);
  await sql`select webhookpub.delete_webhook(${id})`;
  const rows = await sql`
    select status, count(*)::integer as count from webhookpub.deliveries group by status`;
  t.strictSame([...rows], [{ status: "cancelled", count: 4 }]);
  t.equal((await sql`select from webhookpub.queue`).count, 0);
});

void t.test("nobody is overlooked, whoever holds what at that moment", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { ordered: true });
  const [a1] = await publishKeys(sql, ["a"]);
  await fanOutAll(sql);
  const leased = await leaseAll(sql, [id]);
  const [a2] = await publishKeys(sql, ["a"]);

  await t.test("an end waits for a fan-out that puts something behind it", async (t) => {
    const fanning = session();
    await fanning`begin`;
    await fanning`select webhookpub.fan_out()`;
    t.strictSame((await answer(sql, leased, 200)).held_ids, [leased[0]!.lease.delivery_id]);
    await fanning`commit`;
    t.strictSame((await answer(sql, leased, 200)).ready_webhook_ids, [id]);
  });
  const second = await leaseAll(sql, [id]);
  t.strictSame(events(second), [a2]);
  let third: typeof second = [];

  await t.test("a fan-out passes by an event while its head is being ended", async (t) => {
    const [a3] = await publishKeys(sql, ["a"]);
    const recording = session();
    await recording`begin`;
    await answer(recording, second, 200);
    const [row] = await sql<
      [{ event_count: number }]
    >`select event_count from webhookpub.fan_out()`;
    t.equal(row.event_count, 0);
    await sql`select count(webhook_publish_tx(
      'email.received', 'user_1', '{}', ordering_key => 'a')) from generate_series(1, 600)`;
    t.match(
      await sql`select event_count, more, look_again from webhookpub.fan_out_batch()`,
      [{ event_count: 0, more: false, look_again: true }],
      "nor asks at once again, however many there are",
    );
    await sql`delete from webhookpub.events where id <> ${a3!} and status = 'pending'`;
    await recording`commit`;
    await fanOutAll(sql);
    third = await leaseAll(sql, [id]);
    t.strictSame(events(third), [a3]);
  });

  await t.test("an end waits for nobody who holds what comes next", async (t) => {
    const [a4] = await publishKeys(sql, ["a"]);
    await fanOutAll(sql);
    const holder = session();
    await holder`begin`;
    await holder`select from webhookpub.queue where turn_at is not null for update`;
    const recording = session();
    await recording`set lock_timeout = '10 s'`;
    t.strictSame(
      (await answer(recording, third, 200)).held_ids,
      third.map(({ lease }) => lease.delivery_id),
    );
    await holder`commit`;
    await answer(recording, third, 200);
    t.strictSame(events(await leaseAll(sql, [id])), [a4]);
  });
  t.ok(a1);
});

const random = randomFrom();
void t.test(`any course of events, against a model (SEED=${random.seed})`, async (t) => {
  const { sql } = await testDatabase(t);
  const ordered = await createWebhook(sql, { ordered: true, retrySchedule: "{1 min}" });
  /** Of each key what has not ended, the oldest first, and how often it was tried. */
  const model = new Map<string, { id: string; attempts: number }[]>();
  let pendingEvents: { key: string; id: string }[] = [];
  const underWay = new Map<string, Awaited<ReturnType<typeof leaseAll>>[number]>();
  const keys = ["a", "b", "c"];
  const heads = () =>
    [...model.values()]
      .flatMap(([head]) => (head && !underWay.has(head.id) ? [head.id] : []))
      .sort();

  for (let step = 0; step < 150; step += 1) {
    const what = random.below(100);
    if (what < 35) {
      const key = keys[random.below(keys.length)]!;
      const [id = ""] = await publish(sql, { key });
      pendingEvents.push({ key, id });
    } else if (what < 50) {
      await fanOutAll(sql);
      for (const { key, id } of pendingEvents) {
        model.set(key, [...(model.get(key) ?? []), { id, attempts: 0 }]);
      }
      pendingEvents = [];
    } else if (what < 70) {
      await endPauses(sql);
      const expected = heads();
      const leased = await leaseAll(sql, [ordered.id]);
      if (JSON.stringify(events(leased).sort()) !== JSON.stringify(expected)) {
        t.strictSame(events(leased).sort(), expected, `step ${step}`);
        return;
      }
      for (const one of leased) underWay.set(one.eventId, one);
    } else if (what < 95) {
      const [one] = underWay.values();
      if (!one) continue;
      underWay.delete(one.eventId);
      const succeeds = random.below(3) > 0;
      await answer(sql, [one], succeeds ? 200 : 500);
      for (const line of model.values()) {
        const [head] = line;
        if (head?.id !== one.eventId) continue;
        head.attempts += 1;
        if (succeeds || head.attempts === 2) line.shift();
      }
    } else {
      const [line] = [...model.values()].filter((one) => one.length > 1);
      const chosen = line?.[random.below(line.length)];
      if (!line || !chosen || underWay.has(chosen.id)) continue;
      await sql`
        select webhookpub.skip(d.id) from webhookpub.deliveries as d
        where d.event_id = ${chosen.id}`;
      line.splice(line.indexOf(chosen), 1);
    }
  }
  t.pass("all as the model says");
});

void t.test("with a real worker, a receiver that fails at times gets all in order", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const got = new Map<string, number[]>();
  const random = randomFrom(7);
  receiver.reply = ({ body }) => {
    if (random.below(4) === 0) return 500;
    const { key, n } = (JSON.parse(body) as { data: { key: string; n: number } }).data;
    got.set(key, [...(got.get(key) ?? []), n]);
    return 200;
  };
  await createWebhook(sql, {
    ordered: true,
    url: receiver.url(),
    retrySchedule: `{${Array(20).fill("10 ms").join(",")}}`,
  });
  await startWorkerProcess(t, url);
  for (let n = 0; n < 20; n += 1) {
    for (const key of ["a", "b", "c"]) {
      await publish(sql, { key, data: JSON.stringify({ key, n }) });
    }
  }
  while ([...got.values()].flat().length < 60)
    await receiver.received(receiver.requests.length + 1);
  for (const [key, ns] of got) t.strictSame(ns, [...Array(20).keys()], key);
});
