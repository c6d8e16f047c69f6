import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { tablesReadThrough } from "../support/plans.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { backendOf, untilBlocked } from "../support/waiting.ts";

interface Tick {
  event_count: number;
  delivery_count: number;
}

async function fanOut(sql: Sql, limit = 500): Promise<Tick> {
  const [tick] = await sql<[Tick]>`select * from webhookpub.fan_out(${limit})`;
  return tick;
}

/** The keys of the deliver jobs, in order; one without a key counts as null. */
async function deliverJobs(sql: Sql): Promise<(string | null)[]> {
  const jobs = await sql<{ key: string | null }[]>`
    select j.key
    from graphile_worker.jobs as j
    where j.task_identifier = 'webhook_deliver'
    order by j.key`;
  return jobs.map((job) => job.key);
}

/** The webhooks that some job is for, keyed or not. */
async function webhooksWithJobs(sql: Sql): Promise<string[]> {
  const rows = await sql<{ id: string }[]>`
    select distinct j.payload ->> 'webhook_id' as id
    from graphile_worker._private_jobs as j order by 1`;
  return rows.map((row) => row.id);
}

/** The statuses of these events, in their order. */
async function statuses(sql: Sql, ids: string[]): Promise<string[]> {
  const events = await sql<{ status: string }[]>`
    select e.status from webhookpub.events as e
    where e.id = any (${ids}) order by array_position(${ids}::text[], e.id)`;
  return events.map((event) => event.status);
}

void t.test("a tick makes one delivery for each match, and says what it decided", async (t) => {
  const { sql } = await testDatabase(t);
  const all = await createWebhook(sql);
  const received = await createWebhook(sql, { events: "{email.received}" });
  const off = await createWebhook(sql);
  await sql`select webhookpub.disable_webhook(${off.id})`;
  await createWebhook(sql, { userId: "user_2" });
  const [both] = await publish(sql);
  const [one] = await publish(sql, { type: "email.sent" });
  const [none] = await publish(sql, { userId: "user_3" });
  const envelopes = async () => [
    ...(await sql`
      select event_id, envelope from webhookpub.envelopes_by_event order by created_at`),
  ];
  const published = await envelopes();

  t.strictSame(await fanOut(sql), { event_count: 3, delivery_count: 3 });
  t.strictSame(await envelopes(), published, "the bytes stay");
  t.equal(published.length, 3);
  const events = await sql`
    select e.id, e.status, e.matched_webhook_ids, e.attempts, e.last_error,
      e.processed_at >= e.created_at as processed
    from webhookpub.events as e order by e.created_at`;
  const decided = { attempts: 1, last_error: null, processed: true };
  t.strictSame(
    [...events],
    [
      {
        id: both,
        status: "processed",
        matched_webhook_ids: [all.id, received.id].sort(),
        ...decided,
      },
      { id: one, status: "processed", matched_webhook_ids: [all.id], ...decided },
      { id: none, status: "no_match", matched_webhook_ids: [], ...decided },
    ],
  );
  const deliveries = await sql`
    select d.event_id, d.webhook_id, d.event_type, d.status, d.attempts, d.max_attempts,
      d.replay_id, d.next_attempt_at <= clock_timestamp() as due,
      d.id ~ '^whd_[0-9a-f]{36}$' as named,
      d.expires_at = d.created_at + interval '90 days' as kept_90_days
    from webhookpub.deliveries as d
    order by d.event_type, d.webhook_id`;
  const fresh = {
    status: "pending",
    attempts: 0,
    max_attempts: 8,
    replay_id: null,
    due: true,
    named: true,
    kept_90_days: true,
  };
  t.strictSame(
    [...deliveries],
    [
      ...[all.id, received.id].sort().map((webhook_id) => ({
        event_id: both,
        webhook_id,
        event_type: "email.received",
        ...fresh,
      })),
      { event_id: one, webhook_id: all.id, event_type: "email.sent", ...fresh },
    ],
  );
  t.strictSame(
    await deliverJobs(sql),
    [all.id, received.id].sort(),
    "one job for each webhook with work, under its id",
  );
  t.strictSame(await fanOut(sql), { event_count: 0, delivery_count: 0 }, "nothing is left");
});

void t.test("an event that is fanned out again gets only what is missing", async (t) => {
  const { sql } = await testDatabase(t);
  const webhook = await createWebhook(sql);
  const ids = await publish(sql, { count: 3 });
  await fanOut(sql);
  const again = async () => {
    await sql`delete from graphile_worker._private_jobs`;
    await sql`update webhookpub.events set status = 'pending', processed_at = null`;
    return await fanOut(sql);
  };

  t.strictSame(await again(), { event_count: 3, delivery_count: 0 });
  t.strictSame(await deliverJobs(sql), [], "nobody got work");
  const added = await createWebhook(sql);
  t.strictSame(await again(), { event_count: 3, delivery_count: 3 }, "only the new webhook's");
  t.ok((await deliverJobs(sql)).includes(added.id));
  const deliveries = await sql`
    select event_id, webhook_id from webhookpub.deliveries group by 1, 2 having count(*) = 1`;
  t.equal(deliveries.count, 6);
  const decisions = await sql`select distinct matched_webhook_ids from webhookpub.events`;
  t.strictSame(
    [...decisions],
    [{ matched_webhook_ids: [webhook.id, added.id].sort() }],
    "both match, old deliveries included",
  );
  t.strictSame(await statuses(sql, ids), ["processed", "processed", "processed"]);

  await t.rejects(
    sql`
      insert into webhookpub.delivery_history
        (id, webhook_id, event_id, event_type, event_created_at, created_at, max_attempts)
      select
        webhookpub.first_delivery_prefix(event_id, event_created_at) || substr(webhook_id, 4, 12),
        webhook_id, event_id, event_type, event_created_at, now(), max_attempts
      from webhookpub.deliveries limit 1`,
    { code: "23505", constraint_name: "delivery_history_pkey" },
    "the table itself refuses a second first delivery",
  );
});

void t.test("ids of first deliveries are in the order of their events", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql);
  const ids = [];
  for (let tick = 0; tick < 3; tick += 1) {
    const [id] = await publish(sql);
    ids.push(id);
    await fanOut(sql);
    // Ids are as fine as milliseconds.
    await sql`select pg_sleep(0.002)`;
  }
  const deliveries = await sql<{ event_id: string; exact: boolean }[]>`
    select d.event_id, abs(
      ('x' || substr(d.id, 5, 12))::bit(48)::bigint - extract(epoch from d.event_created_at) * 1000
    ) <= 1 as exact
    from webhookpub.deliveries as d order by d.id`;
  t.strictSame(
    [...deliveries],
    ids.map((event_id) => ({ event_id, exact: true })),
  );
});

void t.test("a tick takes the oldest events, no more than its limit", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql);
  const ids = await publish(sql, { count: 5 });

  t.strictSame(await fanOut(sql, 2), { event_count: 2, delivery_count: 2 });
  t.strictSame(await statuses(sql, ids), [
    ...["processed", "processed"],
    ...["pending", "pending", "pending"],
  ]);
  t.strictSame(await fanOut(sql, 2), { event_count: 2, delivery_count: 2 });
  t.strictSame(await fanOut(sql, 2), { event_count: 1, delivery_count: 1 });
});

void t.test("one user's burst does not hold up another's event", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql);
  await createWebhook(sql, { userId: "user_2" });
  const burst = await publish(sql, { count: 30 });
  const [other, another] = await publish(sql, { userId: "user_2", count: 2 });
  const fannedOut = async () => {
    const all = await statuses(sql, burst);
    return all.lastIndexOf("processed") + 1;
  };

  t.strictSame(await fanOut(sql, 10), { event_count: 10, delivery_count: 10 });
  t.strictSame(await statuses(sql, [other!, another!]), ["processed", "processed"]);
  t.equal(await fannedOut(), 8, "and it goes on");
  t.strictSame(await fanOut(sql, 10), { event_count: 10, delivery_count: 10 });
  t.equal(await fannedOut(), 18);
});

void t.test("a batch is bounded by what it may become, and users take turns", async (t) => {
  const { sql } = await testDatabase(t);
  const addWebhooks = (count: number) => sql`
    insert into webhookpub.webhooks (id, user_id, url, events, retry_schedule)
    select 'wh_' || gen_random_uuid(), 'user_1', 'https://example.com/', '{*}', '{}'
    from generate_series(1, ${count}::int)`;
  await addWebhooks(800);
  await createWebhook(sql, { userId: "user_2" });
  const ids = await publish(sql, { count: 5 });
  const [other] = await publish(sql, { userId: "user_2" });

  t.strictSame(await fanOut(sql), { event_count: 3, delivery_count: 1601 });
  t.strictSame(await statuses(sql, [...ids.slice(1, 3), other!]), [
    ...["processed", "pending"],
    "processed",
  ]);
  await addWebhooks(1400);
  t.strictSame(
    await fanOut(sql),
    { event_count: 1, delivery_count: 2200 },
    "one event is always taken",
  );
});

void t.test("two fan-outs at once share 1,000 events, each event exactly once", async (t) => {
  const { sql, session } = await testDatabase(t);
  for (let i = 0; i < 4; i++) await createWebhook(sql);
  await publish(sql, { count: 1000 });

  const drain = async (own: Sql, begun: Tick): Promise<Tick> => {
    const sum = { ...begun };
    for (;;) {
      const tick = await fanOut(own, 40);
      if (tick.event_count === 0) return sum;
      sum.event_count += tick.event_count;
      sum.delivery_count += tick.delivery_count;
    }
  };
  // The first job ever also names its task, and would be waited for because of that.
  await sql`select webhookpub.add_deliver_jobs('{wh_z}')`;
  await sql`delete from graphile_worker._private_jobs`;
  // However quick one of them is, both take part: each has a batch before the first one commits.
  const [one, other] = [session(), session()];
  // If it waited, this would end it with an error.
  await other`set lock_timeout = '10s'`;
  await one`begin`;
  const begun = [await fanOut(one, 40), await fanOut(other, 40)] as const;
  t.ok(begun[0].event_count > 0 && begun[1].event_count > 0, "both take part");
  const [first, second] = await Promise.all([
    one`commit`.then(() => drain(one, begun[0])),
    drain(other, begun[1]),
  ]);
  t.equal(first.event_count + second.event_count, 1000);
  t.equal(first.delivery_count + second.delivery_count, 4000);
  const [events] = await sql`
    select count(*)::integer as all,
      count(*) filter (where status = 'processed' and attempts = 1)::integer as once
    from webhookpub.events`;
  t.strictSame(events, { all: 1000, once: 1000 });
  const [deliveries] = await sql`
    select count(*)::integer as all,
      count(distinct (event_id, webhook_id))::integer as different
    from webhookpub.deliveries`;
  t.strictSame(deliveries, { all: 4000, different: 4000 });
  // Where both met at a job there may be one beside it, without a key.
  t.equal((await deliverJobs(sql)).filter((key) => key !== null).length, 4);
});

void t.test("a tick that meets another at the same webhooks does not wait for it", async (t) => {
  const { sql, session } = await testDatabase(t);
  for (let i = 0; i < 10; i++) await createWebhook(sql);
  await publish(sql, { count: 20 });
  // The first job ever also names its task, and would be waited for because of that.
  await sql`select webhookpub.add_deliver_jobs('{wh_z}')`;
  const [first, second] = [session(), session()];

  await first`begin`;
  t.strictSame(await fanOut(first, 10), { event_count: 10, delivery_count: 100 });
  // If it waited, this would end it with an error.
  await second`set lock_timeout = '10s'`;
  const ticked = await fanOut(second, 500);
  t.strictSame(ticked, { event_count: 10, delivery_count: 100 }, "it skipped the others'");
  t.equal((await webhooksWithJobs(sql)).length, 11, "what it made is looked for at once");
  await first`commit`;
  t.equal((await sql`select from webhookpub.events where attempts = 1`).count, 20, "no failure");
});

void t.test("a job that has been waiting is left as it is; any other is renewed", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const job = async () => {
    const [row] = await sql<[{ revision: number; locked: boolean; later: boolean }]>`
      select j.revision, j.locked_at is not null as locked, j.run_at > now() as later
      from graphile_worker.jobs as j where j.key = ${id}`;
    return row;
  };
  const fanOutOne = async (change: string) => {
    await sql.unsafe(`
      update graphile_worker._private_jobs
      set updated_at = updated_at - interval '1 second', ${change}`);
    await publish(sql);
    t.match(await fanOut(sql), { delivery_count: 1 });
    return await job();
  };
  await publish(sql);
  await fanOut(sql);
  const { revision } = await job();
  t.match(await fanOutOne("attempts = 0"), { revision }, "waiting: the same");
  t.match(
    await fanOutOne("run_at = now() + interval '1 hour'"),
    { revision: revision + 1, later: false },
    "put off: due now",
  );
  await fanOutOne("attempts = max_attempts");
  const [{ attempts }] = await sql<[{ attempts: number }]>`
    select j.attempts from graphile_worker.jobs as j where j.key = ${id}`;
  t.equal(attempts, 0, "given up: begun anew");
  t.match(
    await fanOutOne("locked_at = now(), locked_by = 'somebody'"),
    { locked: false },
    "taken: another",
  );
});

void t.test("a tick passes by events that somebody else holds", async (t) => {
  const { sql, session } = await testDatabase(t);
  await createWebhook(sql);
  const ids = await publish(sql, { count: 4 });
  const [holder, fanner] = [session(), session()];
  await holder`begin`;
  await holder`select from webhookpub.events where id = ${ids[1]!} for update`;

  // If it waited, this would end it with an error.
  await fanner`set lock_timeout = '2s'`;
  t.strictSame(await fanOut(fanner), { event_count: 3, delivery_count: 3 });
  await holder`rollback`;
  t.strictSame(await fanOut(fanner), { event_count: 1, delivery_count: 1 });
});

void t.test("an event that can't be fanned out waits longer and longer, alone", async (t) => {
  const { sql } = await testDatabase(t);
  const webhooks = [await createWebhook(sql), await createWebhook(sql)];
  const last = webhooks.map((webhook) => webhook.id).sort()[1]!;
  const ids = await publish(sql, { count: 5 });
  const poison = ids[2]!;
  await sql.unsafe(`
    create function break_delivery() returns trigger language plpgsql as $$
    begin raise 'no room for %', new.event_id using errcode = 'ZZ001'; end $$;
    create trigger break_delivery before insert on webhookpub.delivery_history
      for each row when (new.event_id = '${poison}' and new.webhook_id = '${last}')
      execute function break_delivery()`);

  t.strictSame(await fanOut(sql), { event_count: 4, delivery_count: 8 }, "the others go on");
  t.strictSame(await statuses(sql, ids), [
    ...["processed", "processed"],
    "pending",
    ...["processed", "processed"],
  ]);
  t.equal(
    (await sql`select from webhookpub.deliveries where event_id = ${poison}`).count,
    0,
    "its fan-out is all or nothing",
  );
  t.strictSame(await fanOut(sql), { event_count: 0, delivery_count: 0 }, "it waits");

  for (const { attempts, pause } of [
    { attempts: 1, pause: "1 s" },
    { attempts: 2, pause: "2 s" },
    { attempts: 3, pause: "4 s" },
    { attempts: 40, pause: "1 h" },
    { attempts: 30000, pause: "1 h" },
  ]) {
    const before = attempts - 1;
    await sql`
      update webhookpub.events set attempts = ${before}, retry_at = now() where id = ${poison}`;
    const [{ begun }] = await sql<[{ begun: string }]>`select clock_timestamp() as begun`;
    t.strictSame(await fanOut(sql), { event_count: 0, delivery_count: 0 });
    const [event] = await sql`
      select e.status, e.attempts, e.last_error,
        e.retry_at between ${begun}::timestamptz + ${pause}::interval
          and clock_timestamp() + ${pause}::interval as waits
      from webhookpub.events as e where e.id = ${poison}`;
    t.strictSame(
      event,
      { status: "pending", attempts, last_error: `no room for ${poison} (ZZ001)`, waits: true },
      `after failure ${attempts} it waits ${pause}`,
    );
  }

  await sql`drop trigger break_delivery on webhookpub.delivery_history`;
  await sql`delete from graphile_worker._private_jobs`;
  await sql`update webhookpub.events set retry_at = now() where id = ${poison}`;
  t.strictSame(await fanOut(sql), { event_count: 1, delivery_count: 2 }, "the cause is gone");
  t.strictSame(await statuses(sql, [poison]), ["processed"]);
  t.strictSame(await deliverJobs(sql), webhooks.map((webhook) => webhook.id).sort());
});

void t.test("a batch in which every event fails marks each with its own error", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql);
  await publish(sql, { count: 3 });
  await sql`alter table webhookpub.delivery_history add constraint closed check (event_id = '') not valid`;

  t.strictSame(await fanOut(sql), { event_count: 0, delivery_count: 0 });
  const events = await sql`
    select from webhookpub.events
    where status = 'pending' and attempts = 1 and last_error like '%"closed"%(23514)'
      and retry_at > clock_timestamp() - interval '1 hour'`;
  t.equal(events.count, 3);
  t.equal((await sql`select from webhookpub.deliveries`).count, 0);
  t.strictSame(await deliverJobs(sql), []);
});

void t.test("plans made for empty tables do not make a tick read whole tables later", async (t) => {
  const { sql, session } = await testDatabase(t);
  await sql`analyze webhookpub.events, webhookpub.envelopes, webhookpub.delivery_history, webhookpub.queue, webhookpub.webhooks`;
  // Plans are kept by the session.
  const fanner = session();
  for (let i = 0; i < 10; i++) {
    await publish(sql);
    await fanOut(fanner);
  }
  await sql`
    insert into webhookpub.webhooks (id, user_id, url, events, retry_schedule)
    select 'wh_' || n, 'user_' || n, 'https://receiver.example/', '{*}', '{}'
    from generate_series(1, 2000) as n`;
  await sql`
    with event as (
      insert into webhookpub.events (id, user_id, type, created_at, expires_at)
      select 'evt_' || n, 'user_' || 1 + n % 2000, 'email.sent', now(), now()
      from generate_series(1, 20000) as n
      returning id, user_id, created_at
    )
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select id, created_at, user_id, '{}' from event`;
  await sql`
    update webhookpub.events set status = 'processed', processed_at = now()
    where id not like '%0'`;

  for (const count of [1, 20, 100]) {
    await fanner`begin`;
    t.strictSame(await fanOut(fanner, count), { event_count: count, delivery_count: count });
    t.strictSame(await tablesReadThrough(fanner, { byIndex: true }), [], `${count} at once`);
    await fanner`rollback`;
  }
});

void t.test("a webhook whose job is being run gets another that will run", async (t) => {
  const { sql, session } = await testDatabase(t);
  const [runner, adder] = [session(), session()];
  const runnerPid = await backendOf(runner);
  const lockJob = () => runner`
    update graphile_worker._private_jobs
    set locked_at = now(), locked_by = 'somebody' where key = 'wh_a'`;
  const waiting = async () =>
    (
      await sql`
        select from graphile_worker.jobs as j
        where j.task_identifier = 'webhook_deliver'
          and j.locked_at is null and j.attempts < j.max_attempts`
    ).count;

  await t.test("when it has been taken", async (t) => {
    await adder`select webhookpub.add_deliver_jobs('{wh_a}')`;
    await lockJob();
    await adder`select webhookpub.add_deliver_jobs('{wh_a}')`;
    t.equal(await waiting(), 1);
    await sql`delete from graphile_worker._private_jobs`;
  });

  await t.test("when it is taken in this very instant", async (t) => {
    await adder`select webhookpub.add_deliver_jobs('{wh_a}')`;
    // As if it were of this instant, however slow this machine is.
    await sql`
      update graphile_worker._private_jobs set updated_at = now() + interval '1 hour'`;
    await runner`begin`;
    await lockJob();
    await adder`select webhookpub.add_deliver_jobs('{wh_b,wh_a}')`;
    await runner`commit`;
    t.equal(await waiting(), 2, "one for each of the two");
    const [job] = await sql`
      select p.payload ->> 'webhook_id' as webhook_id
      from graphile_worker._private_jobs as p
      where p.locked_at is null and p.key is distinct from 'wh_b'`;
    t.strictSame(job, { webhook_id: "wh_a" });
    await sql`delete from graphile_worker._private_jobs`;
  });

  await t.test("when somebody holds its row for other reasons", async (t) => {
    await adder`select webhookpub.add_deliver_jobs('{wh_a}')`;
    // As if it were of this instant: one that waits already would be left alone.
    await sql`
      update graphile_worker._private_jobs set updated_at = now() + interval '1 hour'`;
    await runner`begin`;
    await runner`select from graphile_worker._private_jobs for update`;
    await adder`select webhookpub.add_deliver_jobs('{wh_a}')`;
    await runner`rollback`;
    t.equal(await waiting(), 2, "another beside it");
    await sql`delete from graphile_worker._private_jobs`;
  });

  await t.test("when many are being completed, in whatever order", async (t) => {
    await adder`select webhookpub.add_deliver_jobs('{wh_a,wh_b,wh_c}')`;
    await sql`update graphile_worker._private_jobs set locked_at = now(), locked_by = 'somebody'`;
    await runner`begin`;
    await runner`delete from graphile_worker._private_jobs where key = 'wh_c'`;
    await adder`begin`;
    await adder`select webhookpub.add_deliver_jobs('{wh_a,wh_b,wh_c}')`;
    const completed =
      runner`delete from graphile_worker._private_jobs where key = 'wh_a'`.execute();
    await untilBlocked(sql, runnerPid);
    await adder`select webhookpub.add_deliver_jobs('{wh_c}')`;
    await adder`commit`;
    await completed;
    await runner`commit`;
    t.equal(await waiting(), 4, "no deadlock");
  });
});

void t.test("whoever adds jobs of the same webhooks at once waits for nobody", async (t) => {
  const { sql, session } = await testDatabase(t);
  const [first, second] = [session(), session()];
  for (const one of [first, second]) await one`set lock_timeout = '10s'`;
  // A job that is there is taken before those that are new. As if it were of this instant: one
  // that waits already would be left alone.
  await sql`select webhookpub.add_deliver_jobs('{wh_m}')`;
  await sql`update graphile_worker._private_jobs set updated_at = now() + interval '1 hour'`;
  await first`begin`;
  await first`select webhookpub.add_deliver_jobs('{wh_a}')`;
  await second`begin`;
  await second`select webhookpub.add_deliver_jobs('{wh_b,wh_m}')`;
  await first`select webhookpub.add_deliver_jobs('{wh_b,wh_m}')`;
  await second`select webhookpub.add_deliver_jobs('{wh_a}')`;
  await first`commit`;
  t.strictSame(await webhooksWithJobs(sql), ["wh_a", "wh_b", "wh_m"]);
  await second`rollback`;
  t.strictSame(await webhooksWithJobs(sql), ["wh_a", "wh_b", "wh_m"], "whatever the other does");
});

void t.test("a webhook is woken once, however often it is named", async (t) => {
  const { sql } = await testDatabase(t);
  await sql`select webhookpub.add_deliver_jobs('{wh_b,wh_a,wh_b}')`;
  await sql`select webhookpub.add_deliver_jobs('{wh_a}')`;
  await sql`select webhookpub.add_deliver_jobs('{}')`;
  await sql`select webhookpub.add_deliver_jobs(null)`;
  t.strictSame(await deliverJobs(sql), ["wh_a", "wh_b"]);
});
