import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { backendOf, untilBlocked } from "../support/waiting.ts";

interface Tick {
  event_count: number;
  delivery_count: number;
}

async function fanOut(sql: Sql, limit = 500): Promise<Tick> {
  const [tick] = await sql<[Tick]>`select * from webhookpub.fan_out(${limit})`;
  return tick;
}

/** A webhook whose predicate would be refused today, as if it had been written by hand. */
async function unchecked(sql: Sql, predicate: string, options = {}): Promise<void> {
  const { id } = await createWebhook(sql, options);
  await sql`
    update webhookpub.webhooks
    set filters = jsonb_build_object('data', ${predicate}::text) where id = ${id}`;
}

async function event(sql: Sql, id: string | undefined) {
  const [found] = await sql`
    select status, attempts, last_error, retry_at > now() as waits, retry_at is not null as paused
    from webhookpub.events where id = ${id!}`;
  return found;
}

async function pending(sql: Sql): Promise<number> {
  return (await sql`select from webhookpub.events where status = 'pending'`).count;
}

/** Data that `$.**.**.**.**.**.**.** == 2` works on for longer than anybody waits. */
const DEEP = `{"a": ${"[".repeat(60)}1${"]".repeat(60)}}`;
const BOMB = "$.**.**.**.**.**.**.** == 2";

void t.test("a statement that times out at a filter holds up nobody else", async (t) => {
  const { sql, session } = await testDatabase(t);
  await createWebhook(sql, { userId: "user_2" });
  await unchecked(sql, BOMB);
  const fanner = session();
  await fanner`set statement_timeout = '1s'`;
  const ids = await publish(sql, { userId: "user_2", count: 3 });
  const [bomb] = await publish(sql, { data: DEEP });
  ids.push(...(await publish(sql, { userId: "user_2", count: 3 })));

  t.strictSame(await fanOut(fanner), { event_count: 0, delivery_count: 0 }, "it is over");
  await until(async () => (await fanOut(fanner), (await pending(sql)) === 1), "the others");
  for (const id of ids) t.match(await event(sql, id), { status: "processed" });
  const failing = await event(sql, bomb);
  t.match(failing, { status: "pending", paused: true });
  t.match(failing?.["last_error"], /\(57014\)$/);
  // A slow machine does not get through the rest before the pause of its first failure is over.
  await sql`update webhookpub.events set retry_at = now() + interval '1 hour' where id = ${bomb!}`;
  t.match(await sql`select events_pending, events_failing from webhookpub.backlog`, [
    { events_pending: "1", events_failing: "1" },
  ]);
  await publish(sql, { userId: "user_2", count: 3 });
  t.match(await fanOut(fanner), { event_count: 3 }, "what comes later does not wait");
});

void t.test("whoever cancels a fan-out ends it", async (t) => {
  const { sql, session } = await testDatabase(t);
  await createWebhook(sql);
  const [id] = await publish(sql);
  const [holder, fanner] = [session(), session()];
  const pid = await backendOf(fanner);
  await holder`begin`;
  await holder`lock table webhookpub.envelopes in exclusive mode`;

  for (const timeout of ["0", "1h"]) {
    await fanner`select set_config('statement_timeout', ${timeout}, false)`;
    const fannedOut = fanner`select webhookpub.fan_out_batch()`.then(
      () => "it went on",
      ({ code }: { code: string }) => code,
    );
    await untilBlocked(sql, pid);
    await sql`select pg_cancel_backend(${pid})`;
    t.equal(await fannedOut, "57014", `statement_timeout = ${timeout}`);
  }
  await holder`rollback`;
  t.match(await event(sql, id), { status: "pending", attempts: 0, last_error: null });
});

void t.test("an event whose filters take too long waits, and gets more time", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql, { userId: "user_2" });
  // Each takes tens of milliseconds: all together, more than any event gets.
  for (let i = 0; i < 20; i += 1) await unchecked(sql, "$.a[*] == $.b[*]");
  await sql`
    insert into webhookpub.webhooks (id, user_id, url, events, filters, retry_schedule)
    select 'wh_' || n, user_id, url, events, filters, retry_schedule
    from webhookpub.webhooks, generate_series(1, 100) as n where user_id = 'user_1'
    on conflict do nothing`;
  const list = (n: number) => `[${Array.from({ length: 4000 }, () => n).join()}]`;
  const [dear] = await publish(sql, { data: `{"a": ${list(1)}, "b": ${list(2)}}` });
  const [other] = await publish(sql, { userId: "user_2" });
  await until(async () => {
    await fanOut(sql);
    // Whichever of them comes first, on a slow machine.
    return (
      (await event(sql, dear))?.["waits"] === true &&
      (await event(sql, other))?.["status"] === "processed"
    );
  }, "it to have failed alone, and the other to go");
  t.match(await event(sql, dear), { status: "pending", last_error: /^matching .*\(WH023\)$/ });

  await sql`update webhookpub.webhooks set filters = '{}' where user_id = 'user_1'`;
  await sql`update webhookpub.events set retry_at = now() where id = ${dear!}`;
  await until(async () => (await fanOut(sql)).event_count === 1, "it to be tried again");
  t.match(await event(sql, dear), { status: "processed" });
});

void t.test("an event's data is parsed once, however many webhooks look into it", async (t) => {
  const { sql } = await testDatabase(t);
  const data = `{"a": [${Array.from({ length: 80_000 }, () => 1).join()}]}`;
  const filters = '{"data": "$.b == 1"}';
  await createWebhook(sql, { userId: "one", filters });
  for (let i = 0; i < 100; i += 1) await createWebhook(sql, { userId: "many", filters });
  const timeOf = async (userId: string) => {
    const times = [];
    for (let i = 0; i < 5; i += 1) {
      await publish(sql, { userId, data });
      const begun = performance.now();
      t.match(await fanOut(sql), { event_count: 1 });
      times.push(performance.now() - begun);
    }
    return Math.min(...times);
  };
  const [one, many] = [await timeOf("one"), await timeOf("many")];
  t.comment(`one webhook ${one.toFixed(1)} ms, 100 of them ${many.toFixed(1)} ms`);
  t.ok(many < 8 * one, "not once for each");
});

void t.test("large events with many filters do not hold up another user's", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql, { userId: "user_2" });
  const filters = '{"data": "$.a[*] == 2"}';
  for (let i = 0; i < 100; i += 1) await createWebhook(sql, { filters });
  const data = `{"a": [${Array.from({ length: 73_000 }, () => 1).join()}]}`;
  const large = await publish(sql, { count: 60, data });
  const [other] = await publish(sql, { userId: "user_2" });

  const first = await fanOut(sql);
  const second = await fanOut(sql);
  t.match(await event(sql, other), { status: "processed" }, "by the second batch");
  t.ok(first.event_count + second.event_count <= 3, "large ones go one at a time");
  // On a slow machine each may need more time than it gets at first.
  await sql`update webhookpub.events set attempts = 4 where id = any (${large.slice(5)})`;
  await sql`delete from webhookpub.events where id = any (${large.slice(0, 57)})`;
  await until(async () => (await fanOut(sql), (await pending(sql)) === 0), "the others");
});

void t.test("a batch is bounded by its bytes", async (t) => {
  const { sql } = await testDatabase(t);
  await sql`
    insert into webhookpub.events
      (id, user_id, pending_user_id, type, envelope, created_at, expires_at)
    select
      'evt_' || n, 'user_' || n % 10, 'user_' || n % 10, 'email.sent',
      '{"data": {"x": "' || repeat('x', 2500000) || '"}}', now(), now() + interval '1 day'
    from generate_series(1, 450) as n`;

  const first = await fanOut(sql);
  t.ok(first.event_count > 1, "some together");
  t.ok(first.event_count < 50, `not ${first.event_count}`);
});

void t.test("a short statement_timeout makes batches smaller until they fit", async (t) => {
  const { sql, session } = await testDatabase(t);
  // Some milliseconds for each event.
  await unchecked(sql, "$.a[*] == $.b[*]");
  const list = (n: number) => `[${Array.from({ length: 700 }, () => n).join()}]`;
  await publish(sql, { count: 200, data: `{"a": ${list(1)}, "b": ${list(2)}}` });
  const fanner = session();
  await fanner`set statement_timeout = '300ms'`;
  let calls = 0;
  while ((await pending(sql)) > 0 && calls < 1000) {
    await fanOut(fanner).catch(() => {});
    calls += 1;
  }
  t.equal(await pending(sql), 0, `${calls} calls`);
});

void t.test("an event amidst another user's burst goes with the next batch", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql, { userId: "a_burst" });
  for (const name of ["a_burst", "b_burst", "z_burst"])
    await publish(sql, { userId: name, count: 400 });
  const [amidst] = await publish(sql, { userId: "middle" });
  const [late] = await publish(sql, { userId: "zz" });
  for (const name of ["a_burst", "b_burst", "z_burst"])
    await publish(sql, { userId: name, count: 400 });

  t.match(await fanOut(sql, 50), { event_count: 50 });
  t.match(await event(sql, amidst), { status: "no_match" });
  t.match(await event(sql, late), { status: "no_match" });
  const shares = await sql<{ n: number }[]>`
    select count(*)::int as n from webhookpub.events
    where user_id like '%burst' and status <> 'pending' group by user_id`;
  t.equal(shares.length, 3, "bursts share what is left");
  t.ok(
    shares.every(({ n }) => n >= 10),
    JSON.stringify(shares),
  );
});

void t.test("of more users than a batch has room for, each gets its turn", async (t) => {
  const { sql, session } = await testDatabase(t);
  await sql`
    select webhook_publish_tx('email.sent', 'user_' || u, '{}')
    from generate_series(1, 100) as u, generate_series(1, 20) as n`;
  const fanner = session();
  for (let i = 0; i < 8; i += 1) t.match(await fanOut(fanner, 30), { event_count: 30 });
  const served = await sql`
    select distinct user_id from webhookpub.events where status <> 'pending'`;
  t.equal(served.count, 100);
});

void t.test(
  "whoever has many webhooks does not wait for a tick after each small batch",
  async (t) => {
    const { url, sql } = await testDatabase(t);
    await sql`update webhookpub.settings set max_webhooks_per_user = 1000`;
    await sql`
    select webhookpub.create_webhook('user_1', 'https://example.com/', '{other.*}')
    from generate_series(1, 400)`;
    /** The time from one batch to the next, in milliseconds; and how many there were. */
    const pace = async (ids: string[]) => {
      const [row] = await sql<[{ batches: number; mean: number }]>`
      select count(*)::integer as batches,
        avg(b.since)::double precision as mean
      from (
        select extract(epoch from min(e.processed_at) - lag(min(e.processed_at))
          over (order by min(e.processed_at))) * 1000 as since
        from webhookpub.events as e
        where e.id = any (${ids})
        group by e.xmin::text
      ) as b`;
      return row;
    };
    const byHand = await publish(sql, { count: 50 });
    t.match(
      await sql`select event_count, more from webhookpub.fan_out_batch()`,
      [{ event_count: 5, more: true }],
      "as many as may become 2,000 deliveries",
    );
    while ((await fanOut(sql)).event_count > 0);
    t.match(await sql`select more from webhookpub.fan_out_batch()`, [{ more: false }]);
    const { mean } = await pace(byHand);

    await startWorkerProcess(t, url);
    const ids = await publish(sql, { count: 50 });
    await until(async () => (await pending(sql)) === 0, "all events");
    const atWork = await pace(ids);
    t.ok(atWork.batches >= 10, `${atWork.batches} batches`);
    t.ok(
      atWork.mean < 10 * mean + 250,
      `one each ${atWork.mean.toFixed(0)} ms, ${mean.toFixed(0)} by hand`,
    );
  },
);
