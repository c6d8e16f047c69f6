import t from "tap";
import { answerTo, type Outcome } from "../../src/deliver/answer.ts";
import type { Sql } from "../../src/database/connect.ts";
import { type Lease, recordAttempts } from "../../src/database/calls.ts";
import { leaseDeliveries } from "../support/leases.ts";
import { testDatabase } from "../support/database.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish, type WebhookOptions } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** How many attempts in a row without an answer open a circuit. */
const LIMIT = 5;

const SILENT = { kind: "timed_out", error: "no answer" } as const satisfies Outcome;
const OK: Outcome = { kind: "responded", statusCode: 200, body: "", retryAfter: null };
const ERROR: Outcome = { kind: "responded", statusCode: 500, body: "", retryAfter: null };

let users = 0;

/** A webhook of a user of its own, with deliveries that are due; its id. */
async function scene(sql: Sql, options: WebhookOptions & { count?: number } = {}) {
  users += 1;
  const userId = `user_${users}`;
  const { id } = await createWebhook(sql, { ...options, userId });
  await publish(sql, { userId, count: options.count ?? 40 });
  await sql`select webhookpub.fan_out()`;
  return id;
}

async function lease(sql: Sql, webhookId: string, limit = 1000): Promise<Lease[]> {
  return [...(await leaseDeliveries(sql, [webhookId], [limit]))];
}

async function record(sql: Sql, leases: readonly Lease[], outcome: Outcome): Promise<void> {
  await recordAttempts(
    sql,
    leases.map((leased) => answerTo(leased, outcome, 1)),
  );
}

/** Opens the circuit of a webhook. */
async function open(sql: Sql, webhookId: string): Promise<void> {
  await record(sql, await lease(sql, webhookId, LIMIT), SILENT);
}

/**
 * Records answers and says whether the circuit is then open for `seconds`, give or take
 * 10 %, whatever time the call took.
 */
async function opensFor(
  sql: Sql,
  webhookId: string,
  seconds: number,
  recording: () => Promise<void>,
) {
  const [{ begun }] = await sql<[{ begun: string }]>`select clock_timestamp() as begun`;
  await recording();
  const [{ within }] = await sql<[{ within: boolean }]>`
    select circuit_opened_at is not null
      and circuit_retry_at >= ${begun}::timestamptz + make_interval(secs => 0.9 * ${seconds})
      and circuit_retry_at <= clock_timestamp() + make_interval(secs => 1.1 * ${seconds}) as within
    from webhookpub.webhooks where id = ${webhookId}`;
  return within;
}

/** Ends the pause of an open circuit, as time does. */
async function endPause(sql: Sql, webhookId: string): Promise<void> {
  await sql`
    update webhookpub.webhooks set circuit_retry_at = clock_timestamp()
    where id = ${webhookId} and circuit_retry_at is not null`;
}

async function circuit(sql: Sql, webhookId: string) {
  const [row] = await sql<
    [{ open: boolean; unanswered: number; pausing: boolean; version: string }]
  >`
    select circuit_opened_at is not null as open, unanswered,
      circuit_retry_at is not null as pausing,
      xmin::text as version
    from webhookpub.webhooks where id = ${webhookId}`;
  return row;
}

/** Which of these have a job that waits. */
async function woken(sql: Sql, webhookIds: readonly string[]): Promise<string[]> {
  const rows = await sql<{ key: string }[]>`
    select key from graphile_worker.jobs where key = any (${webhookIds as string[]}) order by key`;
  return rows.map(({ key }) => key);
}

async function forgetJobs(sql: Sql): Promise<void> {
  await sql`
    select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;
}

void t.test("in SQL", async (t) => {
  const { sql } = await testDatabase(t);

  for (const outcome of [
    SILENT,
    { kind: "refused", error: "ECONNREFUSED" },
    { kind: "blocked", error: "not public" },
  ] as const) {
    await t.test(
      `it opens after ${LIMIT} attempts in a row that were ${outcome.kind}`,
      async (t) => {
        const id = await scene(sql);
        const leases = await lease(sql, id);
        t.equal(leases.length, 20);
        await record(sql, leases.slice(0, LIMIT - 1), outcome);
        t.match(await circuit(sql, id), { open: false, unanswered: LIMIT - 1, pausing: false });
        t.ok(
          await opensFor(sql, id, 10, () => record(sql, leases.slice(LIMIT - 1, LIMIT), outcome)),
        );
        t.match(await circuit(sql, id), { open: true, unanswered: LIMIT });
      },
    );
  }

  for (const outcome of [OK, ERROR]) {
    const status = outcome.kind === "responded" ? outcome.statusCode : 0;
    await t.test(`an answer counts from 0 again, also a ${status}`, async (t) => {
      const id = await scene(sql);
      const leases = await lease(sql, id);
      await record(sql, leases.slice(0, 4), SILENT);
      await record(sql, leases.slice(4, 5), outcome);
      t.match(await circuit(sql, id), { open: false, unanswered: 0 });
      await record(sql, leases.slice(5, 9), SILENT);
      t.match(await circuit(sql, id), { open: false, unanswered: 4 });
    });
  }

  await t.test("one answer among many failures keeps it closed", async (t) => {
    const id = await scene(sql);
    const leases = await lease(sql, id);
    await recordAttempts(
      sql,
      leases.map((leased, i) => answerTo(leased, i === 7 ? ERROR : SILENT, 1)),
    );
    t.match(await circuit(sql, id), { open: false, unanswered: 0 });
  });

  await t.test("while it is open nothing goes out and no attempt is burnt", async (t) => {
    const id = await scene(sql);
    await open(sql, id);
    t.strictSame(await lease(sql, id), []);
    const [waiting] = await sql`
      select count(*)::integer as count, sum(attempts)::integer as attempts
      from webhookpub.deliveries where webhook_id = ${id} and next_attempt_at <= now()`;
    t.strictSame(waiting, { count: 35, attempts: 0 });
  });

  await t.test("webhook_health shows it, and since when and why", async (t) => {
    const id = await scene(sql);
    const health = async () => {
      const [row] = await sql`
        select h.circuit_opened_at = w.circuit_opened_at as opened,
          h.circuit_retry_at > h.circuit_opened_at as retried,
          h.failing_since <= h.circuit_opened_at as failing, h.success_rate, h.last_error,
          h.pending::integer as pending
        from webhookpub.webhook_health as h
        join webhookpub.webhooks as w on w.id = h.webhook_id
        where h.webhook_id = ${id}`;
      return row;
    };
    await open(sql, id);
    t.strictSame(await health(), {
      opened: true,
      retried: true,
      failing: true,
      success_rate: "0.000",
      last_error: SILENT.error,
      pending: 40,
    });
    await endPause(sql, id);
    await record(sql, await lease(sql, id), OK);
    t.strictSame(await health(), {
      opened: null,
      retried: null,
      failing: null,
      success_rate: "0.167",
      last_error: SILENT.error,
      pending: 39,
    });
  });

  await t.test("the deliveries that did fail follow their schedule", async (t) => {
    const id = await scene(sql, { retrySchedule: "{1 h}" });
    await open(sql, id);
    const [failed] = await sql`
      select count(*)::integer as count, max(attempts) as attempts
      from webhookpub.deliveries
      where webhook_id = ${id} and next_attempt_at > now() + interval '50 minutes'`;
    t.strictSame(failed, { count: LIMIT, attempts: 1 });
  });

  await t.test("after the pause a single probe goes out, the oldest first", async (t) => {
    const id = await scene(sql);
    await open(sql, id);
    await endPause(sql, id);
    const [oldest] = await sql<[{ id: string }]>`
      update webhookpub.queue set due_at = due_at - interval '1 second'
      where delivery_id = (
        select max(delivery_id) from webhookpub.queue where webhook_id = ${id} and attempt = 0
      )
      returning delivery_id as id`;
    const probes = await lease(sql, id);
    t.strictSame(
      probes.map((probe) => probe.delivery_id),
      [oldest.id],
    );
    t.strictSame(await lease(sql, id), [], "and none beside it");

    await sql`
      update webhookpub.queue set due_at = now()
      where webhook_id = ${id} and leased`;
    const again = await lease(sql, id);
    t.match(again, [{ delivery_id: oldest.id, attempt: 2 }], "unless its worker was lost");
    t.equal(again.length, 1);
  });

  await t.test("what is under way when it opens is waited for", async (t) => {
    const id = await scene(sql);
    const leases = await lease(sql, id);
    await record(sql, leases.slice(0, LIMIT), SILENT);
    await endPause(sql, id);
    t.strictSame(await lease(sql, id), []);
    await record(sql, leases.slice(LIMIT), SILENT);
    await endPause(sql, id);
    t.equal((await lease(sql, id)).length, 1);
  });

  await t.test("the pause grows with each probe that fails, up to 5 min", async (t) => {
    const id = await scene(sql);
    await open(sql, id);
    for (const pause of [20, 40, 80, 160, 300, 300, 300]) {
      await endPause(sql, id);
      const probe = await lease(sql, id);
      t.equal(probe.length, 1);
      t.ok(await opensFor(sql, id, pause, () => record(sql, probe, SILENT)), `${pause} s`);
    }
  });

  await t.test("it writes the webhook only when something changes", async (t) => {
    const id = await scene(sql);
    const leases = await lease(sql, id);
    await sql`update webhookpub.webhooks set failures = 1000, failing_since = now() where id = ${id}`;
    await record(sql, leases.slice(0, 10), SILENT);
    const opened = await circuit(sql, id);
    t.ok(opened.open);
    await record(sql, leases.slice(10), SILENT);
    t.equal((await circuit(sql, id)).version, opened.version, "a late failure is not");

    await endPause(sql, id);
    await record(sql, await lease(sql, id), OK);
    const closed = await circuit(sql, id);
    await record(sql, await lease(sql, id), OK);
    t.equal((await circuit(sql, id)).version, closed.version, "nor is the next success");
  });

  for (const outcome of [OK, ERROR]) {
    const status = outcome.kind === "responded" ? outcome.statusCode : 0;
    await t.test(`the first answer closes it, also a ${status}`, async (t) => {
      const id = await scene(sql);
      await open(sql, id);
      await endPause(sql, id);
      await record(sql, await lease(sql, id), outcome);
      t.match(await circuit(sql, id), { open: false, unanswered: 0, pausing: false });
      t.equal((await lease(sql, id)).length, 20, "and all goes on");
    });
  }

  await t.test("enabling closes it, and so does a new URL, but nothing else", async (t) => {
    const webhooks = {
      enabled: await scene(sql),
      reenabled: await scene(sql),
      moved: await scene(sql),
      renamed: await scene(sql),
    };
    for (const id of Object.values(webhooks)) await open(sql, id);
    await forgetJobs(sql);
    await sql`select webhookpub.enable_webhook(${webhooks.enabled})`;
    await sql`select webhookpub.disable_webhook(${webhooks.reenabled})`;
    t.ok((await circuit(sql, webhooks.reenabled)).open);
    await sql`select webhookpub.enable_webhook(${webhooks.reenabled})`;
    await sql`select webhookpub.update_webhook(${webhooks.moved}, p_url => 'https://new.example/')`;
    await sql`
      select webhookpub.update_webhook(${webhooks.renamed}, p_url => 'https://receiver.example/',
        p_description => 'the same')`;
    for (const id of [webhooks.enabled, webhooks.reenabled, webhooks.moved]) {
      t.match(await circuit(sql, id), { open: false, unanswered: 0 });
      t.equal((await lease(sql, id)).length, 20);
    }
    t.ok((await circuit(sql, webhooks.renamed)).open);
    t.strictSame(
      await woken(sql, Object.values(webhooks)),
      [webhooks.enabled, webhooks.reenabled, webhooks.moved].toSorted(),
      "what waited is woken",
    );
  });

  await t.test("the sweep wakes an open one when its pause is over, not before", async (t) => {
    const id = await scene(sql);
    await open(sql, id);
    // Long due: outside of the window that a tick looks at.
    await sql`
      update webhookpub.queue set due_at = now() - interval '1 hour'
      where webhook_id = ${id} and due_at <= now()`;
    const wokenBy = async (window: string | null) => {
      await forgetJobs(sql);
      await sql`select webhookpub.wake(${window}::interval)`;
      return (await woken(sql, [id])).length;
    };
    t.equal(await wokenBy("10 seconds"), 0);
    t.equal(await wokenBy(null), 0);
    await endPause(sql, id);
    t.equal(await wokenBy("10 seconds"), 1);
    const [probe] = await lease(sql, id);
    t.equal(await wokenBy("10 seconds"), 0, "nor while its probe is under way");
    t.equal(await wokenBy(null), 0);
    await record(sql, [probe!], OK);
    t.equal(await wokenBy(null), 1);
    await sql`select webhookpub.disable_webhook(${id})`;
    t.equal(await wokenBy(null), 0);
  });

  await t.test("one that is open for too long is disabled like any that fails", async (t) => {
    const id = await scene(sql);
    await open(sql, id);
    for (let probe = 0; probe < 5; probe += 1) {
      await endPause(sql, id);
      await record(sql, await lease(sql, id), SILENT);
    }
    await sql`
      update webhookpub.webhooks set failing_since = now() - interval '73 hours' where id = ${id}`;
    await sql`select webhookpub.disable_failing()`;
    const [row] = await sql`select disabled_reason from webhookpub.webhooks where id = ${id}`;
    t.strictSame(row, { disabled_reason: "failing" });
  });

  await t.test("a probe that fails counts, whoever holds the webhook meanwhile", async (t) => {
    const id = await scene(sql);
    await open(sql, id);
    await endPause(sql, id);
    const [probe] = await lease(sql, id);
    const failed = answerTo(probe!, SILENT, 1);
    await sql.begin(async (tx) => {
      await tx`select from webhookpub.webhooks where id = ${id} for update`;
      const { held_ids } = await recordAttempts(sql, [failed]);
      t.strictSame(held_ids, [probe!.delivery_id], "it is told later");
      t.strictSame(await lease(sql, id), [], "and no other goes out until then");
    });
    t.ok(await opensFor(sql, id, 20, () => record(sql, [probe!], SILENT)));
    t.match(await circuit(sql, id), { open: true, unanswered: LIMIT + 1 });
  });

  await t.test("but it is not held until its lease ends: it would go out again", async (t) => {
    const id = await scene(sql);
    await open(sql, id);
    await endPause(sql, id);
    const [probe] = await lease(sql, id);
    await sql`
      update webhookpub.queue set due_at = clock_timestamp() + interval '4 seconds'
      where delivery_id = ${probe!.delivery_id}`;
    await sql.begin(async (tx) => {
      await tx`select from webhookpub.webhooks where id = ${id} for update`;
      const { held_ids } = await recordAttempts(sql, [answerTo(probe!, SILENT, 1)]);
      t.strictSame(held_ids, []);
    });
    const [row] = await sql`
      select leased, attempt, lost from webhookpub.queue where delivery_id = ${probe!.delivery_id}`;
    t.strictSame(row, { leased: false, attempt: 1, lost: 0 });
  });

  await t.test("of what is recorded at once some counts, and nothing twice", async (t) => {
    const id = await scene(sql);
    const leases = await lease(sql, id);
    await Promise.all(leases.splice(0, 4).map((leased) => record(sql, [leased], SILENT)));
    const { open, unanswered } = await circuit(sql, id);
    t.ok(!open && unanswered >= 1 && unanswered <= 4, `${unanswered} of 4`);
    for (let counted = unanswered + 1; counted <= LIMIT; counted += 1) {
      await record(sql, leases.splice(0, 1), SILENT);
      t.match(await circuit(sql, id), { open: counted === LIMIT, unanswered: counted });
    }
  });
});

void t.test("a worker leaves a silent receiver alone, tries once, and goes on", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  receiver.reply = () => "reset";
  await startWorkerProcess(t, url);
  await startWorkerProcess(t, url);
  const { id } = await createWebhook(sql, { url: receiver.url(), maxInFlight: LIMIT });
  await publish(sql, { count: 30 });
  await until(async () => (await circuit(sql, id)).open, "the circuit to open");
  await until(
    () =>
      sql.begin(async (tx) => {
        // A lease that had begun before it opened has come to its end, too: it is not the probe.
        await tx`select pg_advisory_xact_lock(2003006833, hashtext(${id}))`;
        return (await tx`select from webhookpub.queue where leased`).count === 0;
      }),
    "what was under way",
  );
  const tried = receiver.requests.length;
  t.ok(tried < 30, `${tried} of 30 were tried`);

  const gate = Promise.withResolvers<void>();
  receiver.reply = () => gate.promise.then(() => 200);
  await endPause(sql, id);
  await receiver.received(tried + 1);
  await sql`select webhookpub.wake()`;
  t.equal(receiver.requests.length, tried + 1, "a single probe, of two workers");
  gate.resolve();
  await until(
    async () =>
      (await sql`select from webhookpub.deliveries where status = 'delivered'`).count ===
      30 - tried,
    "those that waited",
  );
  t.match(await circuit(sql, id), { open: false, unanswered: 0 });
  const [burnt] = await sql`
    select max(attempts) as attempts from webhookpub.deliveries where status = 'delivered'`;
  t.strictSame(burnt, { attempts: 1 });
});
