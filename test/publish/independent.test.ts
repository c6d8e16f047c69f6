import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { connect } from "../../src/database/connect.ts";
import { databaseOf, startTestCluster, TEMPLATE } from "../support/cluster.ts";
import { testDatabase } from "../support/database.ts";
import { PUBLISH_FUNCTIONS, publishBy } from "../support/publish.ts";
import { refused } from "../support/refused.ts";
import { createWebhookWith } from "../support/webhook.ts";
import { backendOf, untilBlocked } from "../support/waiting.ts";

/** How many transactions fail of 320 by 16 sessions, each with an id of its own. */
async function failures(
  sessions: Sql[],
  level: string,
  publish: (typeof PUBLISH_FUNCTIONS)[number],
) {
  const codes = await Promise.all(
    sessions.map(async (session, s) => {
      const failed: string[] = [];
      for (let n = 0; n < 20; n += 1) {
        await session
          .begin(`isolation level ${level}`, async (tx) => {
            const message_id = `${level} ${publish} ${s} ${n}`;
            await publishBy(publish, tx, { message_id, user_id: `user_${s}` });
            await publishBy(publish, tx, { message_id: `${message_id} too`, user_id: `user_${s}` });
          })
          .catch(({ code }: { code: string }) => failed.push(code));
      }
      return failed;
    }),
  );
  return codes.flat();
}

void t.test("publishers that have nothing to do with one another do not conflict", async (t) => {
  const { sql, session } = await testDatabase(t);
  for (let s = 0; s < 16; s += 1) await createWebhookWith(sql, { p_user_id: `user_${s}` });
  const sessions = Array.from({ length: 16 }, () => session());
  for (const level of ["serializable", "repeatable read"]) {
    for (const publish of ["webhook_publish_tx", "webhook_publish_best_effort_tx"] as const) {
      t.strictSame(await failures(sessions, level, publish), [], `${publish}, ${level}`);
    }
  }
  t.equal((await sql`select from webhookpub.publish_failures`).count, 0);
  t.equal((await sql`select from webhookpub.events`).count, 2 * 2 * 640);
});

void t.test("one id at once on both paths: one envelope, and WH004 for another user", async (t) => {
  const { sql, session } = await testDatabase(t);
  for (const p_user_id of ["user_1", "user_2"]) await createWebhookWith(sql, { p_user_id });
  for (const [n, [first, second]] of (
    [
      ["webhook_publish", "webhook_publish_tx"],
      ["webhook_publish_tx", "webhook_publish"],
      ["webhook_publish", "webhook_publish"],
    ] as const
  ).entries()) {
    for (const user_id of ["user_1", "user_2"]) {
      const event_id = `evt_${n}_${user_id}`;
      const [a, b] = [session(), session()];
      const pid = await backendOf(b);
      await a`begin`;
      t.equal(await publishBy(first, a, { event_id, data: '{"n": 1}' }), event_id);
      const waiting = publishBy(second, b, { event_id, user_id, data: '{"n": 2}' }).then(
        (id) => id,
        ({ code }: { code: string }) => code,
      );
      await untilBlocked(sql, pid);
      await a`commit`;
      const expected =
        user_id === "user_1" ? event_id : second === "webhook_publish" ? null : "WH004";
      t.equal(await waiting, expected, `${first}, then ${second} of ${user_id}`);
      while ((await sql`select from webhookpub.fan_out() where event_count > 0`).count > 0);
      t.match(
        await sql`
          select user_id, envelope from webhookpub.envelopes_by_event where event_id = ${event_id}`,
        [{ user_id: "user_1", envelope: /"n": 1/ }],
      );
      const deliveries = await sql`
        select from webhookpub.deliveries where event_id = ${event_id}`;
      t.equal(deliveries.count, 1);
    }
  }
});

void t.test(
  "the direct path takes 20,000 events in one statement, without locks for each",
  { skip: !existsSync("/proc/self/schedstat") && "needs the processor times of Linux" },
  async (t) => {
    const { session } = await testDatabase(t);
    const publisher = session();
    const pid = await backendOf(publisher);
    /** Nanoseconds that its backend has been on a processor: others may want more of it than before. */
    const used = async () =>
      Number((await readFile(`/proc/${pid}/schedstat`, "utf8")).split(" ")[0]);
    const locksAndTime = async (from: number, to: number) => {
      const begun = await used();
      await publisher`begin`;
      const [{ published }] = await publisher<[{ published: number }]>`
      select count(webhook_publish('email.sent', 'user_1', '{}', message_id => 'bulk_' || n))::int as published
      from generate_series(${from}::int, ${to}::int) as n`;
      t.equal(published, to - from + 1);
      const [{ locks }] = await publisher<[{ locks: number }]>`
      select count(*)::int as locks from pg_locks where pid = pg_backend_pid()`;
      await publisher`commit`;
      return { locks, each: ((await used()) - begun) / published };
    };
    const small = await locksAndTime(1, 2000);
    const large = await locksAndTime(2001, 22_000);
    t.comment(JSON.stringify({ small, large }));
    t.ok(large.locks < 150, `${large.locks} locks`);
    t.ok(large.each < 4 * small.each, "each takes as long as in a small statement");
  },
);

void t.test("what has published can be prepared when settings.notify_enabled is off", async (t) => {
  const { sql, session } = await testDatabase(t);
  const publisher = session();
  const prepare = async (name: string) => {
    await publisher`begin`;
    for (const publish of PUBLISH_FUNCTIONS) await publishBy(publish, publisher);
    await publisher.unsafe(`prepare transaction '${name}'`);
  };
  await t.rejects(prepare("with_notify"), { code: "0A000" }, "PostgreSQL's own rule");
  await sql`update webhookpub.settings set notify_enabled = false`;
  await prepare("without_notify");
  await sql.unsafe("commit prepared 'without_notify'");
  t.equal((await sql`select from webhookpub.events`).count, 3);
});

void t.test("a queue of notifications that is filling up fails no publisher", async (t) => {
  if (process.env["PG_BIN"]?.includes("/15/")) {
    t.comment("PostgreSQL 15 has a queue of 8 GB");
    return;
  }
  const cluster = await startTestCluster(["max_notify_queue_pages=64"]);
  t.teardown(() => cluster.remove());
  const open = () => {
    const sql = connect(databaseOf(cluster.url, TEMPLATE), { max: 1 });
    t.teardown(() => sql.end({ timeout: 1 }));
    return sql;
  };
  const [listener, sender, publisher] = [open(), open(), open()];
  await listener`listen something`;
  await listener`begin`;
  await listener`select`;
  const usage = async () =>
    (await sender<[{ usage: number }]>`select pg_notification_queue_usage() as usage`)[0].usage;
  while ((await usage()) < 0.9) await sender`select pg_notify('something', repeat('x', 7000))`;
  const before = await usage();
  for (const publish of PUBLISH_FUNCTIONS) {
    for (let n = 0; n < 100; n += 1) t.ok(await publishBy(publish, publisher, {}));
  }
  t.equal(await usage(), before, "nothing was added to it");
});

void t.test("an ordering key is kept with the event", async (t) => {
  const { sql } = await testDatabase(t);
  for (const publish of PUBLISH_FUNCTIONS) {
    for (const ordering_key of ["order 7", "ü".repeat(200), null, undefined]) {
      const id = await publishBy(publish, sql, { ordering_key });
      const [event] = await sql`select ordering_key from webhookpub.events where id = ${id}`;
      t.equal(event?.["ordering_key"], ordering_key ?? null);
    }
  }
  for (const ordering_key of ["", "x".repeat(201)]) {
    const publish = publishBy("webhook_publish_tx", sql, { ordering_key });
    await refused(t, publish, { code: "WH006", says: `'${ordering_key.slice(0, 40)}'` });
  }
  const args = { event_type: "later.known", ordering_key: "order 7" };
  t.equal(await publishBy("webhook_publish_best_effort_tx", sql, args), null);
  await sql`insert into webhookpub.event_types (name) values ('later.known')`;
  await sql`select webhookpub.retry_publish_failures()`;
  t.match(await sql`select ordering_key from webhookpub.events where type = 'later.known'`, [
    { ordering_key: "order 7" },
  ]);
});

void t.test("labels count however empty they are", async (t: Test) => {
  const { sql } = await testDatabase(t);
  for (const label of ["''::text", "null::text"]) {
    const publish = sql.unsafe(`
      select webhook_publish_tx('email.sent', 'user_1', '{}',
        labels => array_fill(${label}, array[300000]))`);
    await refused(t, publish, { code: "WH003", says: "300000 labels" }, label);
  }
  const labels = (count: number) => Array.from({ length: count }, () => "");
  t.ok(await publishBy("webhook_publish_tx", sql, { labels: labels(1000) }));
  const toomany = publishBy("webhook_publish_tx", sql, { labels: labels(1001) });
  await refused(t, toomany, { code: "WH003", says: "1001 labels" });
  await sql`update webhookpub.settings set max_payload_bytes = 1000`;
  const empty = publishBy("webhook_publish_tx", sql, { labels: labels(999) });
  await refused(t, empty, { code: "WH003", says: "over the limit" });
});
