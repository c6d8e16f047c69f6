import t from "tap";
import { answerTo } from "../../src/deliver/answer.ts";
import type { Sql } from "../../src/database/connect.ts";
import { maintain as maintainOnce, recordAttempts } from "../../src/database/calls.ts";
import { leaseDeliveries } from "../support/leases.ts";
import { maintainUntilDone } from "../../src/maintain.ts";
import { testDatabase } from "../support/database.ts";
import { explained, tablesReadThrough } from "../support/plans.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { backendOf } from "../support/waiting.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const OK = { kind: "responded", statusCode: 200, body: "", retryAfter: null } as const;

/** One round of upkeep: what it did to how many. */
async function maintain(sql: Sql): Promise<Record<string, number>> {
  const rows = await sql<{ task: string; affected: string }[]>`
    select task, affected from webhookpub.maintain()`;
  return Object.fromEntries(rows.map(({ task, affected }) => [task, Number(affected)]));
}

type Partitioned = "envelopes" | "attempts";

/** The daily partitions of a table, as days before or after today (UTC). */
async function partitions(sql: Sql, table: Partitioned): Promise<number[]> {
  const rows = await sql<{ day: number }[]>`
    select to_date(right(c.relname, 8), 'YYYYMMDD') - (now() at time zone 'UTC')::date as day
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = ${`webhookpub.${table}`}::regclass and c.relname ~ '_[0-9]{8}$'
    order by day`;
  return rows.map(({ day }) => day);
}

async function nameOf(sql: Sql, table: Partitioned, day: number): Promise<string> {
  const [row] = await sql<[{ name: string }]>`
    select format(
      'webhookpub.%s_%s', ${table}::text,
      to_char((now() at time zone 'UTC')::date + ${day}::integer, 'YYYYMMDD')
    ) as name`;
  return row.name;
}

/** Makes partitions as a round in the past would have: from one day to another. */
async function makePartitions(sql: Sql, table: Partitioned, from: number, to: number) {
  await sql`
    select webhookpub.create_partitions(
      ${`webhookpub.${table}`}::regclass, ${to - from - 1},
      now() + ${from + 1} * interval '1 day'
    )`;
}

interface OldEvent {
  id: string;
  day: number;
  status?: "pending" | "processed" | "no_match";
  expired?: boolean;
}

/** Inserts an event as it would stand there after some days; `day` is negative. */
async function insertEvent(sql: Sql, { id, day, status = "processed", expired = true }: OldEvent) {
  await sql`
    insert into webhookpub.events
      (id, user_id, type, status, processed_at, created_at, expires_at)
    select ${id}, 'user_1', 'email.sent', ${status}, case when ${status} <> 'pending' then n.at end,
      n.at, now() + ${expired ? -1 : 1} * interval '1 minute'
    from (select now() + ${day} * interval '1 day') as n (at)`;
}

async function insertEnvelope(sql: Sql, eventId: string, day: number) {
  await sql`
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select ${eventId}, now() + ${day} * interval '1 day', 'user_1', '{}'`;
}

interface OldDelivery {
  /** What its id ends with. */
  name: string;
  webhookId?: string;
  day: number;
  status?: "pending" | "delivered" | "failed" | "cancelled";
}

/** The same for a delivery; its event is of the same day. */
async function insertDelivery(
  sql: Sql,
  { name, webhookId = "wh_nobody", day, status = "delivered" }: OldDelivery,
) {
  await sql`
    insert into webhookpub.delivery_history
      (id, webhook_id, event_id, event_type, event_created_at, created_at, status, max_attempts,
       delivered_at)
    select left(webhookpub.delivery_id(n.at), 16) || ${name}, ${webhookId}, 'evt_' || ${name}::text,
      'email.sent', n.at, n.at, ${status}, 8, case when ${status} = 'delivered' then now() end
    from (select now() + ${day} * interval '1 day') as n (at)`;
  await sql`
    insert into webhookpub.queue (delivery_id, webhook_id, due_at)
    select h.id, h.webhook_id, now()
    from webhookpub.delivery_history as h
    where h.status = 'pending' and h.id like '%' || ${name}::text`;
}

/** The events that there are, or the names of deliveries. */
async function ids(sql: Sql, table: "events" | "deliveries"): Promise<string[]> {
  const rows = await sql<{ id: string }[]>`select id from webhookpub.${sql(table)}`;
  return rows.map(({ id }) => id.replace(/^whd_[0-9a-f]{12}/, "")).toSorted();
}

async function jobs(sql: Sql) {
  return [
    ...(await sql<{ task: string; key: string | null }[]>`
      select task_identifier as task, key from graphile_worker.jobs
      where key is distinct from 'webhook_maintain' order by id`),
  ];
}

async function webhook(sql: Sql, id: string) {
  const [row] = await sql<[{ enabled: boolean; disabled_reason: string | null; failures: number }]>`
    select enabled, disabled_reason, failures from webhookpub.webhooks where id = ${id}`;
  return row;
}

async function disabledNotices(sql: Sql): Promise<string[]> {
  const rows = await sql<{ notice: string }[]>`
    select n.envelope::jsonb #>> '{data,webhook_id}'
      || ' ' || (n.envelope::jsonb #>> '{data,reason}') as notice
    from webhookpub.events as e
    join webhookpub.envelopes_by_event as n on n.event_id = e.id
    where e.type = 'webhook.disabled' order by 1`;
  return rows.map(({ notice }) => notice);
}

void t.test("partitions are made two weeks ahead, and the rows of today find theirs", async (t) => {
  const { sql } = await testDatabase(t);
  await maintain(sql);
  for (const table of ["envelopes", "attempts"] as const) {
    const days = await partitions(sql, table);
    const missing = Array.from({ length: 16 }, (_, i) => i - 1).filter(
      (day) => !days.includes(day),
    );
    t.strictSame(missing, [], `${table}: yesterday to 14 days ahead`);
    for (const day of [13, 14]) {
      await sql.unsafe(`drop table ${await nameOf(sql, table, day)}`);
    }
  }
  for (const day of [13, 14]) {
    t.match(await maintain(sql), { create_partitions: 1 }, "one a round");
    t.ok((await partitions(sql, "envelopes")).includes(day));
  }
  for (let n = 0; n < 2; n += 1) t.match(await maintain(sql), { create_partitions: 1 });
  t.match(await maintain(sql), { create_partitions: 0 });

  const { id } = await createWebhook(sql);
  await publish(sql, { count: 3 });
  await sql`select webhookpub.fan_out()`;
  const leases = await leaseDeliveries(sql, [id], [10]);
  await recordAttempts(
    sql,
    leases.map((lease) => answerTo(lease, { kind: "refused", error: "no" }, 1)),
  );
  for (const table of ["envelopes", "attempts"] as const) {
    const [rows] = await sql`
      select count(*)::integer as all,
        count(*) filter (where tableoid::regclass::text ~ '_[0-9]{8}$')::integer as by_day
      from webhookpub.${sql(table)}`;
    t.strictSame(rows, { all: 3, by_day: 3 }, `${table}: DEFAULT stays empty`);
  }
});

/** How many rows a table has, and how many of them are in its DEFAULT partition. */
async function rowsOf(sql: Sql, table: Partitioned) {
  const [rows] = await sql<[{ all: number; strays: number }]>`
    select count(*)::integer as all,
      count(*) filter (where tableoid = ${`webhookpub.${table}_default`}::regclass)::integer as strays
    from webhookpub.${sql(table)}`;
  return { ...rows };
}

void t.test("a missing partition stops nobody, and its rows move home", async (t) => {
  const { sql } = await testDatabase(t);
  await maintain(sql);
  const today = (await nameOf(sql, "envelopes", 0)).slice("webhookpub.".length);
  await sql`drop table webhookpub.${sql(today)}`;
  const [id = ""] = await publish(sql);
  await sql`select webhookpub.fan_out()`;
  t.strictSame(await rowsOf(sql, "envelopes"), { all: 1, strays: 1 });
  await insertEvent(sql, { id: "evt_old", day: -40 });
  t.match(await maintain(sql), { create_partitions: 1, delete_events: 1 });
  t.strictSame(await rowsOf(sql, "envelopes"), { all: 1, strays: 0 });
  t.equal((await sql`select from webhookpub.envelopes where event_id = ${id}`).count, 1);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  t.strictSame(await rowsOf(sql, "envelopes"), { all: 2, strays: 0 });
});

void t.test(
  "rows of other days move home as well, and leave when their time has come",
  async (t) => {
    const { sql } = await testDatabase(t);
    for (const day of [-50, -50, -3]) {
      await insertEnvelope(sql, `evt_${Math.random()}`, day);
      await sql`
      insert into webhookpub.attempts
        (delivery_id, attempt, started_at, duration_ms, outcome, webhook_id)
      values (${`whd_${Math.random()}`}, 1, now() + ${day} * interval '1 day', 1, 'timed_out', 'wh_1')`;
    }
    for (const table of ["envelopes", "attempts"] as const) {
      t.strictSame(await rowsOf(sql, table), { all: 3, strays: 3 }, table);
    }
    for (let round = 0; round < 6; round++) await maintain(sql);
    for (const table of ["envelopes", "attempts"] as const) {
      t.strictSame(await rowsOf(sql, table), { all: 1, strays: 0 }, table);
      t.ok((await partitions(sql, table)).includes(-3), `${table} has its day`);
    }
  },
);

void t.test(
  "rows that somebody is writing stay until the next round, and nobody waits",
  async (t) => {
    const { sql, session } = await testDatabase(t);
    await maintain(sql);
    await insertEnvelope(sql, "evt_first", -3);
    const [writer, keeper, publisher] = [session(), session(), session()];
    await writer`begin`;
    await insertEnvelope(writer, "evt_second", -3);
    t.match(await maintain(keeper), { create_partitions: 0 }, "it gives up");
    await writer`commit`;
    t.strictSame(await rowsOf(sql, "envelopes"), { all: 2, strays: 2 });

    await keeper`begin`;
    await keeper`select webhookpub.create_partitions('webhookpub.envelopes')`;
    await publisher`set lock_timeout = '2s'`;
    t.equal((await publish(publisher)).length, 1, "a publisher does not meet it");
    await keeper`commit`;
    t.strictSame(await rowsOf(sql, "envelopes"), { all: 2, strays: 0 });
  },
);

/** Drops all partitions of a table and writes what then goes to DEFAULT: of eight days. */
async function runOutOfPartitions(sql: Sql, table: Partitioned) {
  await sql.unsafe(`
    do $$
    declare v_name text;
    begin
      for v_name in select p.name from webhookpub.partitions_of('webhookpub.${table}') as p loop
        execute format('drop table webhookpub.%I', v_name);
      end loop;
    end $$`);
  // Upkeep gives way to it, and this is about what upkeep does by itself.
  await sql.unsafe(`alter table webhookpub.${table}_default set (autovacuum_enabled = off)`);
  const rows = {
    envelopes: "(event_id, created_at, user_id, body) select n, at, 'user_1', body",
    attempts: `(delivery_id, attempt, started_at, duration_ms, outcome, webhook_id, error)
      select n, 1, at, 1, 'timed_out', 'wh_1', body`,
  };
  await sql.unsafe(`
    insert into webhookpub.${table} ${rows[table]}
    from (
      select 'evt_' || n as n, now() - n % 8 * interval '1 day' as at, (
        select string_agg(md5(n || ' ' || i), '') from generate_series(1, 160) as i
      ) as body
      from generate_series(1, 5000) as n
    ) as stray`);
}

void t.test(
  "what has gathered in DEFAULT stays where it is, and becomes a partition",
  async (t) => {
    const { sql } = await testDatabase(t);
    for (const table of ["envelopes", "attempts"] as const) {
      await runOutOfPartitions(sql, table);
      t.strictSame(await rowsOf(sql, table), { all: 5000, strays: 5000 });
      const stored = () => sql`
      select string_agg(s.xmin || ' ' || s.ctid, ',' order by s.ctid) as places
      from webhookpub.${sql(table)} as s`;
      const before = await stored();
      const steps = [];
      while ((await rowsOf(sql, table)).strays > 0) steps.push(await oneStep(sql, table));
      t.strictSame(steps, [1, 1, 1], "a check, its validation, the swap");

      const [first] = await sql`select * from webhookpub.partitions_of(${`webhookpub.${table}`})`;
      const name = `webhookpub.${String(first?.["name"])}`;
      t.match(name, /_\d{8}_\d{8}$/);
      t.strictSame(await stored(), before, "nothing was moved");
      t.strictSame(await rowsOf(sql, table), { all: 5000, strays: 0 });
      while ((await oneStep(sql, table)) > 0);
      const today = (await partitions(sql, table)).filter((day) => day >= 0);
      t.strictSame(today, [6, 7, 8, 9, 10, 11, 12, 13, 14], "a week, and then day by day");
    }
    await sql`update webhookpub.settings set attempt_retention = '2 hours'`;
    await maintain(sql);
    t.equal((await rowsOf(sql, "attempts")).all, 5000, "it stays as long as its last day");
    const dropped = await sql<[{ count: string }]>`
    select webhookpub.drop_partitions('webhookpub.attempts', now() + interval '7 days') as count`;
    t.strictSame([...dropped], [{ count: "1" }]);
    t.equal((await rowsOf(sql, "attempts")).all, 0);
  },
);

const oneStep = async (sql: Sql, table: Partitioned): Promise<number> => {
  const [row] = await sql<[{ count: string }]>`
    select webhookpub.create_partitions(${`webhookpub.${table}`}, p_limit => 1) as count`;
  return Number(row.count);
};

void t.test("while that goes on nobody is refused, and each row is read once", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await runOutOfPartitions(sql, "envelopes");
  await runOutOfPartitions(sql, "attempts");
  let over = false;
  const meanwhile = async (act: (own: Sql, n: number) => Promise<unknown>) => {
    const own = session();
    let n = 0;
    for (; !over; n += 1) await act(own, n);
    return n;
  };
  const strays = new Set<string>();
  const acts = Promise.all([
    meanwhile((own) => own`select webhookpub.test_webhook(${id})`),
    meanwhile((own) => own`select webhook_publish('email.sent', 'user_1', '{}')`),
    meanwhile(async (own) => {
      const leases = await leaseDeliveries(own, [id], [5]);
      const answers = leases.map((leased) => answerTo(leased, OK, 1));
      await recordAttempts(own, answers);
    }),
    meanwhile(async (own) => {
      const [row] = await own`
        select
          (select count(*) from webhookpub.envelopes where event_id ~ '^evt_\\d{1,4}$') as envelopes,
          (select count(*) from webhookpub.attempts where delivery_id ~ '^evt_\\d{1,4}$') as attempts`;
      strays.add(JSON.stringify(row));
    }),
  ]);
  for (const table of ["envelopes", "attempts"] as const) {
    while ((await rowsOf(sql, table)).strays > 0) await oneStep(sql, table);
    await oneStep(sql, table);
  }
  over = true;
  const counts = await acts;
  t.comment(`tests, direct events, records and readings meanwhile: ${counts.join(", ")}`);
  t.ok(counts.every((count) => count > 0));
  t.strictSame([...strays], ['{"envelopes":"5000","attempts":"5000"}']);
  t.strictSame((await rowsOf(sql, "envelopes")).strays, 0);
  t.strictSame((await rowsOf(sql, "attempts")).strays, 0);
});

void t.test("nobody waits for the step that reads all that has gathered", async (t) => {
  const { sql, session } = await testDatabase(t);
  await runOutOfPartitions(sql, "envelopes");
  const keeper = session();
  t.equal(await oneStep(sql, "envelopes"), 1);
  await keeper`begin`;
  t.equal(await oneStep(keeper, "envelopes"), 1);
  const publisher = session();
  // There is nothing to wait for: it would for as long as the keeper's transaction is open.
  await publisher`set lock_timeout = '10s'`;
  await createWebhook(sql);
  await publisher`select webhook_publish('email.sent', 'user_1', '{}')`;
  t.equal((await publisher`select from webhookpub.envelopes`).count, 5001);
  await keeper`commit`;
});

void t.test("upkeep that is left open in a transaction stops nobody", async (t) => {
  const { sql, session } = await testDatabase(t);
  await sql.unsafe(`drop table ${await nameOf(sql, "envelopes", 0)}`);
  await createWebhook(sql);
  await sql`
    select graphile_worker.add_job(
      'webhook_fan_out', job_key => 'webhook_fan_out', max_attempts => 1
    )`;
  await sql`update graphile_worker._private_jobs set attempts = 1`;
  const [keeper, ticker, publisher] = [session(), session(), session()];
  const pid = await backendOf(keeper);
  await keeper`begin`;
  t.match(await maintain(keeper), { delete_failed_jobs: 1, create_partitions: 1 });
  const [{ limit }] = await keeper<[{ limit: string }]>`
    select current_setting('idle_in_transaction_session_timeout') as limit`;
  // A slow machine may need longer for what it has to live through.
  await keeper`set local idle_in_transaction_session_timeout = 0`;
  await publish(sql);
  await ticker`set lock_timeout = '10s'`;
  await ticker`select webhookpub.wake()`;
  t.strictSame(await maintain(ticker), {}, "nor does it wait for itself");
  await keeper`select set_config('idle_in_transaction_session_timeout', ${limit}, true)`;
  // Its partition is locked: until PostgreSQL has ended that session.
  await publisher`select webhookpub.fan_out()`;
  await publisher`select webhook_publish('email.sent', 'user_1', '{}')`;
  t.equal((await publisher`select from webhookpub.envelopes`).count, 2);
  t.not(await backendOf(keeper), pid, "its session is over");
  t.match(await maintain(sql), { create_partitions: 1 });
});

void t.test("upkeep goes by the database's clock, whatever a worker's says", async (t) => {
  const { sql, url } = await testDatabase(t);
  const round = async () => {
    const [was] = await sql<[{ at: string }]>`
      update webhookpub.upkeep set finished_at = now() - interval '61 seconds'
      returning finished_at as at`;
    await until(
      async () =>
        (await sql`select from webhookpub.upkeep where finished_at > ${was.at}`).count > 0,
      "a round of upkeep",
    );
  };
  const ahead = await startWorkerProcess(t, url, {
    env: { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(DAY_AHEAD)}` },
  });
  await round();
  ahead.kill("SIGKILL");
  await ahead.ended();
  await startWorkerProcess(t, url);
  await round();
  await round();
  await sql`update webhookpub.upkeep set finished_at = now() + interval '1 day'`;
  await until(
    async () =>
      (await sql`select from webhookpub.upkeep where finished_at < now() + interval '1 hour'`)
        .count > 0,
    "a round although the database's clock was set back",
  );
});

/** A clock that is a day ahead. */
const DAY_AHEAD = `
  const real = Date;
  globalThis.Date = class extends real {
    constructor(...args) {
      args.length === 0 ? super(real.now() + 864e5) : super(...args);
    }
    static now() {
      return real.now() + 864e5;
    }
  };`;

void t.test("a partition that somebody reads is dropped later, one a round", async (t) => {
  const { sql, session } = await testDatabase(t);
  await makePartitions(sql, "attempts", -41, -38);
  const old = async () => (await partitions(sql, "attempts")).filter((day) => day < -30);
  const reader = session();
  await reader`begin`;
  await reader`select from webhookpub.attempts`;
  t.match(await maintain(sql), { drop_partitions: 0 });
  t.strictSame(await old(), [-41, -40, -39, -38]);
  await reader`commit`;
  for (const left of [3, 2, 1]) {
    t.match(await maintain(sql), { drop_partitions: 1 });
    t.equal((await old()).length, left);
  }
});

void t.test("a replay that is just being made keeps its day of envelopes", async (t) => {
  const { sql, session } = await testDatabase(t);
  await makePartitions(sql, "envelopes", -41, -41);
  const { id } = await createWebhook(sql);
  const replayer = session();
  for (let n = 1; n <= 5; n += 1) {
    // Of the direct path: nothing but a delivery that has ended needs it.
    await sql`
      insert into webhookpub.delivery_history
        (id, webhook_id, event_id, event_type, event_created_at, created_at, status, max_attempts,
         delivered_at)
      values ('whd_' || ${n}::text, ${id}, 'evt_' || ${n}::text, 'email.sent',
        now() - interval '41 days', now(), 'delivered', 8, now())`;
    await sql`
      insert into webhookpub.envelopes (event_id, created_at, user_id, body)
      select d.event_id, d.event_created_at, 'user_1', '{}'
      from webhookpub.delivery_history as d where d.id = 'whd_' || ${n}::text`;
    await replayer`begin`;
    const replays = await replayer<{ outcome: string }[]>`
      select outcome from webhookpub.redeliver(${`evt_${n}`})`;
    t.equal(replays[0]?.outcome, "created");
    // It waits for the partition when the replay commits, or gives up before.
    const round = maintain(sql);
    await replayer`commit`;
    t.match(await round, { drop_partitions: 0 });
    t.ok((await partitions(sql, "envelopes")).includes(-41), "the day stays");
    await sql`
      select webhookpub.end_deliveries(array(select delivery_id from webhookpub.queue), 'failed')`;
    await sql`delete from webhookpub.delivery_history where replay_id is not null`;
  }
  t.match(await maintain(sql), { drop_partitions: 1 }, "until nothing needs it");
});

void t.test("upkeep goes on until nothing is left, round by round", async (t) => {
  const { sql } = await testDatabase(t);
  await sql`
    insert into webhookpub.events (id, user_id, type, status, created_at, expires_at)
    select 'evt_' || n, 'user_1', 'email.sent', 'no_match', now(), now() - interval '1 minute'
    from generate_series(1, 12000) as n`;
  const said: string[] = [];
  const log = { debug() {}, info: (line: string) => void said.push(line), warn() {}, error() {} };
  let rounds = 0;
  const round = () => {
    rounds += 1;
    return maintainOnce(sql);
  };
  await maintainUntilDone(round, log, AbortSignal.abort());
  t.equal(rounds, 1, "a worker that stops ends it after a round");
  await maintainUntilDone(round, log, new AbortController().signal);
  t.equal((await sql`select from webhookpub.events`).count, 0);
  t.match(said.join("\n"), /upkeep: delete_events 5000\n[^]*upkeep: delete_events 7000/);
});

void t.test("what has expired leaves, but never what is pending", async (t) => {
  const { sql } = await testDatabase(t);
  for (const status of ["pending", "processed", "no_match"] as const) {
    await insertEvent(sql, { id: `evt_${status}_old`, day: -31, status });
    await insertEvent(sql, { id: `evt_${status}_new`, day: -1, status, expired: false });
  }
  for (const status of ["pending", "delivered", "failed", "cancelled"] as const) {
    await insertDelivery(sql, { name: `${status}_old`, day: -91, status });
    await insertDelivery(sql, { name: `${status}_new`, day: -1, status });
  }
  t.match(await maintain(sql), { delete_events: 2, delete_deliveries: 3 });
  t.strictSame(await ids(sql, "events"), [
    "evt_no_match_new",
    "evt_pending_new",
    "evt_pending_old",
    "evt_processed_new",
  ]);
  t.strictSame(await ids(sql, "deliveries"), [
    "cancelled_new",
    "delivered_new",
    "failed_new",
    "pending_new",
    "pending_old",
  ]);
  t.match(await maintain(sql), { delete_events: 0, delete_deliveries: 0 });
});

void t.test("rows leave in bounded batches, and nobody is waited for", async (t) => {
  const { sql, session } = await testDatabase(t);
  for (const n of [1, 2, 3, 4, 5]) {
    await insertEvent(sql, { id: `evt_${n}`, day: -40, status: n % 2 ? "processed" : "no_match" });
    await insertDelivery(sql, { name: `_${n}`, day: -100 });
  }
  const [holder, remover] = [session(), session()];
  await remover`set lock_timeout = '2s'`;
  const remove = async () => {
    const [row] = await remover<[{ events: string; deliveries: string }]>`
      select * from webhookpub.delete_expired(2)`;
    return [Number(row.events), Number(row.deliveries)];
  };
  await holder`begin`;
  await holder`select from webhookpub.events where id = 'evt_1' for update`;
  await holder`select from webhookpub.delivery_history where id like '%\\_1' for update`;
  t.strictSame(await remove(), [2, 1]);
  t.strictSame(await remove(), [2, 2]);
  t.strictSame(await remove(), [0, 1]);
  t.strictSame(await remove(), [0, 0], "what somebody holds stays for now");
  await holder`commit`;
  await sql`update webhookpub.expiry set restart_at = now()`;
  t.strictSame(await remove(), [1, 1], "and leaves the next day");
});

void t.test("a day of envelopes stays as long as something needs it", async (t) => {
  const { sql } = await testDatabase(t);
  await makePartitions(sql, "envelopes", -41, -36);
  await insertEvent(sql, { id: "evt_kept", day: -40, expired: false });
  await insertEnvelope(sql, "evt_kept", -40);
  await insertDelivery(sql, { name: "due", day: -39, status: "pending" });
  await insertEnvelope(sql, "evt_due", -39);
  await insertDelivery(sql, { name: "over", day: -38, status: "delivered" });
  await insertEnvelope(sql, "evt_over", -38);
  await insertEvent(sql, { id: "evt_poison", day: -37, status: "pending" });
  await insertEnvelope(sql, "evt_poison", -37);
  const old = async () => (await partitions(sql, "envelopes")).filter((day) => day < -1);

  t.strictSame(await old(), [-41, -40, -39, -38, -37, -36]);
  await sql`update webhookpub.settings set event_retention = '60 days'`;
  t.match(await maintain(sql), { drop_partitions: 0 });
  await sql`update webhookpub.settings set event_retention = '30 days'`;
  for (let round = 0; round < 6; round++) await maintain(sql);
  t.strictSame(await old(), [-40, -39, -37], "an event, a pending delivery, a pending event");

  await sql`update webhookpub.events set expires_at = now() where id = 'evt_kept'`;
  await sql`
    select webhookpub.end_deliveries(array(select delivery_id from webhookpub.queue), 'cancelled')`;
  for (let round = 0; round < 6; round++) await maintain(sql);
  t.strictSame(await old(), [-37]);
  t.equal((await sql`select from webhookpub.envelopes where event_id = 'evt_poison'`).count, 1);
});

void t.test("attempts leave by the day", async (t) => {
  const { sql } = await testDatabase(t);
  await makePartitions(sql, "attempts", -33, -29);
  for (const day of [-33, -32, -31, -30, -29]) {
    await sql`
      insert into webhookpub.attempts
        (delivery_id, attempt, started_at, duration_ms, outcome, webhook_id)
      values (${`whd_${day}`}, 1, now() + ${day} * interval '1 day', 1, 'timed_out', 'wh_1')`;
  }
  const days = async () => {
    const rows = await sql<{ id: string }[]>`
      select delivery_id as id from webhookpub.attempts order by started_at`;
    return rows.map(({ id }) => id);
  };
  for (let round = 0; round < 4; round++) await maintain(sql);
  t.strictSame(await days(), ["whd_-30", "whd_-29"]);
  await sql`update webhookpub.settings set attempt_retention = '29 days'`;
  for (let round = 0; round < 4; round++) await maintain(sql);
  t.strictSame(await days(), ["whd_-29"]);
});

void t.test("an envelope is looked up in the partition of its day alone", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const [eventId = ""] = await publish(sql);
  await sql`select webhookpub.fan_out()`;
  interface Node {
    "Relation Name"?: string;
    "Actual Loops": number;
    Plans?: Node[];
  }
  const read = (node: Node): string[] => [
    ...(node["Relation Name"]?.startsWith("envelopes") && node["Actual Loops"] > 0
      ? [node["Relation Name"]]
      : []),
    ...(node.Plans ?? []).flatMap(read),
  ];
  const today = (await nameOf(sql, "envelopes", 0)).slice("webhookpub.".length);
  for (const query of [
    `select n.body from webhookpub.envelopes as n join webhookpub.events as e
     on n.event_id = e.id and n.created_at = e.created_at where e.id = '${eventId}'`,
    `select n.body from webhookpub.envelopes as n join webhookpub.deliveries as d
     on n.event_id = d.event_id and n.created_at = d.event_created_at
     where d.webhook_id = '${id}'`,
  ]) {
    const own = await sql.reserve();
    await own`set enable_hashjoin = off`;
    await own`set enable_mergejoin = off`;
    const [row] = await own.unsafe<[{ "QUERY PLAN": [{ Plan: Node }] }]>(
      `explain (analyze, format json) ${query}`,
    );
    await own`reset all`;
    own.release();
    t.strictSame(read(row["QUERY PLAN"][0].Plan), [today]);
  }
});

void t.test("secrets whose grace has ended are erased", async (t) => {
  const { sql } = await testDatabase(t);
  const [over, during, never] = [
    await createWebhook(sql),
    await createWebhook(sql),
    await createWebhook(sql),
  ];
  const [{ current }] = await sql<[{ current: string }]>`
    select webhookpub.rotate_secret(${over.id}, '1 hour') as current`;
  await sql`select webhookpub.rotate_secret(${during.id}, '1 hour')`;
  await sql`
    update webhookpub.secrets set expires_at = clock_timestamp() where secret = ${over.secret}`;

  t.match(await maintain(sql), { expire_secrets: 1 });
  t.match(await maintain(sql), { expire_secrets: 0 });
  const secrets = async (id: string) => {
    const rows = await sql<{ secret: string }[]>`
      select secret from webhookpub.secrets where webhook_id = ${id} order by id`;
    return rows.map(({ secret }) => secret);
  };
  t.strictSame(await secrets(over.id), [current]);
  t.equal((await secrets(during.id)).length, 2);
  t.strictSame(await secrets(never.id), [never.secret]);
});

void t.test(
  "a webhook that has only failed for too long is disabled, and said to be",
  async (t) => {
    const { sql, session } = await testDatabase(t);
    const failing = async (failures: number, hours: number): Promise<string> => {
      const { id } = await createWebhook(sql);
      await sql`
      update webhookpub.webhooks
      set failures = ${failures}, failing_since = now() - ${hours} * interval '1 hour'
      where id = ${id}`;
      return id;
    };
    const fine = (await createWebhook(sql)).id;
    const tooFew = await failing(9, 1000);
    const tooShort = await failing(10, 71);
    const bad = await failing(10, 73);
    const off = await failing(10, 73);
    await sql`select webhookpub.disable_webhook(${off}, 'holiday')`;

    const own = session();
    await own`begin`;
    await maintain(own);
    t.strictSame(await disabledNotices(own), [`${bad} failing`]);
    t.strictSame(await disabledNotices(sql), [], "in the same transaction");
    await own`rollback`;
    t.match(await webhook(sql, bad), { enabled: true });

    t.match(await maintain(sql), { disable_failing: 1 });
    t.match(await webhook(sql, bad), { enabled: false, disabled_reason: "failing" });
    t.match(await webhook(sql, off), { enabled: false, disabled_reason: "holiday" });
    for (const id of [fine, tooFew, tooShort]) t.match(await webhook(sql, id), { enabled: true });
    t.match(await maintain(sql), { disable_failing: 0 });
    t.strictSame(await disabledNotices(sql), [`${bad} failing`], "once");

    await sql`select webhookpub.enable_webhook(${bad})`;
    t.match(await maintain(sql), { disable_failing: 0 }, "enabling forgets what was");
    t.match(await webhook(sql, bad), { enabled: true, failures: 0 });

    await sql`
    update webhookpub.settings set auto_disable_after = '70 hours', auto_disable_min_failures = 5`;
    t.match(await maintain(sql), { disable_failing: 2 }, "settings count");
    t.strictSame(
      await disabledNotices(sql),
      [`${bad} failing`, `${tooFew} failing`, `${tooShort} failing`].sort(),
    );
  },
);

void t.test("one success among failures keeps a webhook enabled", async (t) => {
  const { sql } = await testDatabase(t);
  const answers = async (id: string, statusCodes: number[]) => {
    const leases = await leaseDeliveries(sql, [id], [statusCodes.length]);
    for (const [i, lease] of leases.entries()) {
      const outcome = { kind: "responded", body: "", retryAfter: null } as const;
      const statusCode = statusCodes[i]!;
      await recordAttempts(sql, [answerTo(lease, { ...outcome, statusCode }, 1)]);
    }
    await sql`
      update webhookpub.webhooks set failing_since = failing_since - interval '73 hours'
      where id = ${id}`;
  };
  const failing = await createWebhook(sql);
  const better = await createWebhook(sql);
  await publish(sql, { count: 12 });
  await sql`select webhookpub.fan_out()`;
  await answers(
    failing.id,
    Array.from({ length: 12 }, () => 500),
  );
  await answers(better.id, [...Array.from({ length: 10 }, () => 500), 200, 500]);

  t.match(await maintain(sql), { disable_failing: 1 });
  t.match(await webhook(sql, failing.id), { enabled: false, disabled_reason: "failing" });
  t.match(await webhook(sql, better.id), { enabled: true, failures: 1 });
});

void t.test("a success that is being recorded keeps a webhook from being disabled", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await sql`
    update webhookpub.webhooks set failures = 10, failing_since = now() - interval '80 hours'`;
  const recorder = session();
  const [lease] = await leaseDeliveries(sql, [id], [1]);
  await recorder`begin`;
  await recordAttempts(recorder, [answerTo(lease!, OK, 1)]);
  t.match(await maintain(sql), { disable_failing: 0 });
  await recorder`commit`;
  t.match(await maintain(sql), { disable_failing: 0 });
  t.match(await webhook(sql, id), { enabled: true, failures: 0 });
  t.strictSame(await disabledNotices(sql), []);
});

void t.test("so does one that was recorded while somebody held the webhook", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await sql`
    update webhookpub.webhooks set failures = 10, failing_since = now() - interval '80 hours'`;
  const [lease] = await leaseDeliveries(sql, [id], [1]);
  const application = session();
  await application`begin`;
  await application`select webhookpub.update_webhook(${id}, p_description => 'new')`;
  await recordAttempts(sql, [answerTo(lease!, OK, 1)]);
  await application`commit`;
  t.match(await webhook(sql, id), { failures: 10 }, "its health has not heard of it");
  t.match(await maintain(sql), { disable_failing: 0 });
  await sql`update webhookpub.attempts set started_at = started_at - interval '73 hours'`;
  t.match(await maintain(sql), { disable_failing: 1 }, "until that is too long ago");
});

void t.test("jobs that will never run again are removed, but only our own", async (t) => {
  const { sql } = await testDatabase(t);
  const ours = ["webhook_fan_out", "webhook_deliver", "webhook_maintain"];
  await sql`
    select graphile_worker.add_job(
      task.name, '{}', job_key => concat(task.name, ' ', state.name), max_attempts => 2
    )
    from unnest(${[...ours, "foreign"]}::text[]) as task (name)
    cross join (values ('dead'), ('new'), ('running'), ('killed')) as state (name)`;
  await sql`
    update graphile_worker._private_jobs
    set attempts = case when key like '%dead' then 2 when key like '%new' then 0 else 1 end,
      locked_at = case
        when key like '%running' then now()
        when key like '%killed' then now() - interval '5 hours'
      end`;
  t.match(await maintain(sql), { delete_failed_jobs: 6 });
  const kept = (await jobs(sql)).map(({ key }) => String(key)).sort();
  t.strictSame(
    kept,
    [
      ...ours.flatMap((task) => [`${task} new`, `${task} running`]),
      ...["dead", "killed", "new", "running"].map((state) => `foreign ${state}`),
    ].sort(),
  );
});

void t.test("a delivery that slipped in while its webhook was deleted is cancelled", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const other = await createWebhook(sql);
  await publish(sql, { count: 2 });
  const fanner = session();
  await fanner`begin`;
  await fanner`select webhookpub.fan_out()`;
  await sql`select webhookpub.delete_webhook(${id})`;
  await fanner`commit`;

  t.match(await maintain(sql), { cancel_deleted: 2 });
  const states = await sql`
    select webhook_id, status, count(*)::integer from webhookpub.deliveries group by 1, 2`;
  t.same(
    new Set(states.map((row) => `${row["webhook_id"]} ${row["status"]} ${row["count"]}`)),
    new Set([`${id} cancelled 2`, `${other.id} pending 2`]),
  );
  t.match(await maintain(sql), { cancel_deleted: 0 });
});

void t.test("a deleted webhook goes when nothing of its history is kept", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  const other = await createWebhook(sql);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await sql`select webhookpub.delete_webhook(${id})`;
  const age = async (days: number) => {
    await sql`update webhookpub.webhooks set deleted_at = now() - ${days} * interval '1 day'
      where id = ${id}`;
    return await maintain(sql);
  };
  t.match(await age(0), { delete_webhooks: 0 });
  t.match(await age(92), { delete_webhooks: 0 }, "its delivery is there");
  await sql`delete from webhookpub.delivery_history where webhook_id = ${id}`;
  t.match(await age(90), { delete_webhooks: 0 }, "attempts may be kept for a day longer");
  t.match(await age(92), { delete_webhooks: 1 });
  t.equal((await sql`select from webhookpub.webhooks where id = ${id}`).count, 0);
  t.equal((await sql`select from webhookpub.webhooks where id = ${other.id}`).count, 1);
});

void t.test("webhooks that are disabled or deleted cost ticks and batches nothing", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql);
  const cost = async () => {
    const own = { tick: 0, round: 0, batch: 0 };
    // The second time, with what is read once in a session.
    for (let n = 0; n < 2; n += 1) {
      own.tick = (await explained(sql, "select webhookpub.wake('10 seconds')")).buffers;
      own.round = (await explained(sql, "select from webhookpub.maintain()")).buffers;
      await publish(sql, { count: 1 });
      own.batch = (await explained(sql, "select webhookpub.fan_out_batch()")).buffers;
    }
    return own;
  };
  const before = await cost();
  await sql`
    insert into webhookpub.webhooks
      (id, user_id, url, events, retry_schedule, enabled, disabled_at, disabled_reason, deleted_at,
       circuit_opened_at, circuit_retry_at, failing_since, failures)
    select 'wh_' || n, 'user_' || n % 500, 'https://receiver.example/', '{*}', '{1 min}', false, now(), 'x',
      case when n <= 1000 then now() - interval '2 days' end,
      now() - interval '80 hours', now() - interval '1 hour', now() - interval '80 hours', 50
    from generate_series(1, 51000) as n`;
  await sql`vacuum analyze webhookpub.webhooks`;
  const after = await cost();
  t.comment(before, after);
  t.ok(after.tick < before.tick + 100, "a tick");
  t.ok(after.batch < before.batch + 1000, "a batch");
  t.ok(after.round < before.round + 5000, "a round, once a minute, reads them once");
});

void t.test("whatever is due gets a job, and nothing else", async (t) => {
  const { sql, session } = await testDatabase(t);
  const wake = async (window: string | null = null, own: Sql = sql) => {
    await own`select webhookpub.wake(${window}::interval)`;
    const found = await jobs(sql);
    await sql`delete from graphile_worker._private_jobs`;
    return found;
  };
  const { id } = await createWebhook(sql);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await sql`delete from graphile_worker._private_jobs`;
  const deliver = { task: "webhook_deliver", key: id };
  const put = (columns: string) => sql.unsafe(`update webhookpub.queue set ${columns}`);

  t.strictSame(await wake(), [deliver], "its job was lost");
  await put("due_at = now() + interval '1 minute'");
  t.strictSame(await wake(), [], "a retry that is not due");
  await put("due_at = now() - interval '5 seconds'");
  t.strictSame(await wake("10 minutes"), [deliver], "a retry that became due");
  await put("due_at = now() - interval '1 hour'");
  t.strictSame(await wake("10 seconds"), [], "the window keeps the tick short");
  t.strictSame(await wake(), [deliver], "without one it looks at everything");
  await put("leased = true, attempt = 1, due_at = now() + interval '1 minute'");
  t.strictSame(await wake(), [], "a lease that lasts");
  await put("due_at = now()");
  t.strictSame(await wake("10 seconds"), [deliver], "a lease that has ended");
  await sql`select webhookpub.disable_webhook(${id})`;
  t.strictSame(await wake(), [], "a disabled webhook waits");
  await sql`select webhookpub.enable_webhook(${id})`;
  await sql`select webhookpub.wake()`;
  t.strictSame(await wake(), [deliver], "a job that waits already is not doubled");
  await sql`
    select webhookpub.end_deliveries(array(select delivery_id from webhookpub.queue), 'failed')`;
  t.strictSame(await wake(), []);

  const fanOut = { task: "webhook_fan_out", key: "webhook_fan_out" };
  const awake = session();
  await publish(sql);
  t.strictSame(await wake(), [fanOut], "a pending event");
  await sql`update webhookpub.events set retry_at = now() + interval '1 hour'`;
  t.strictSame(await wake(), [], "one that waits after a failure");
  await sql`update webhookpub.events set retry_at = now()`;
  t.strictSame(await wake(), [fanOut], "and is due again");
  await awake`select webhookpub.enter_fan_out()`;
  // For longer than the tick leaves it to the fan-out, however slow this machine is.
  await sql`update webhookpub.events set created_at = now() + interval '1 minute'`;
  t.strictSame(await wake(), [], "while a fan-out is awake it finds a new one by itself");
  await sql`update webhookpub.events set created_at = now() - interval '3 seconds'`;
  t.strictSame(await wake(), [fanOut], "unless it does not");
  await awake`select webhookpub.leave_fan_out()`;
});

void t.test("a tick reads what is due, not whole tables, whatever the statistics", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await sql`analyze webhookpub.events, webhookpub.delivery_history, webhookpub.queue`;
  // Plans are kept by the session.
  const ticker = session();
  for (let i = 0; i < 10; i++) {
    await ticker`select webhookpub.wake('10 seconds')`;
    await maintain(ticker);
  }
  await sql`
    insert into webhookpub.events (id, user_id, type, created_at, expires_at)
    select 'evt_' || n, 'user_1', 'email.sent', now(), now() + interval '1 hour'
    from generate_series(1, 20000) as n`;
  await sql`update webhookpub.events set status = 'no_match', processed_at = now()`;
  await sql`
    with created as (
      insert into webhookpub.delivery_history
        (id, webhook_id, event_id, event_type, event_created_at, created_at, max_attempts)
      select 'whd_' || n, ${id}, 'evt_' || n, 'email.sent', now(), now(), 8
      from generate_series(1, 20000) as n
      returning id, webhook_id
    )
    insert into webhookpub.queue (delivery_id, webhook_id, due_at)
    select c.id, c.webhook_id, now() + interval '1 hour' from created as c`;
  await publish(sql);

  await ticker`begin`;
  await ticker`select webhookpub.wake('10 seconds')`;
  t.strictSame(await tablesReadThrough(ticker), []);
  await maintain(ticker);
  t.strictSame(await tablesReadThrough(ticker), [], "nor does a round with nothing to do");
  await ticker`rollback`;
});

void t.test("no setting is so long that upkeep could not reckon with it", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhook(sql);
  const columns = await sql<{ name: string }[]>`
    select a.attname as name
    from pg_attribute as a
    where a.attrelid = 'webhookpub.settings'::regclass and a.atttypid = 'interval'::regtype`;
  t.ok(columns.length > 4);
  for (const { name } of columns) {
    const set = (value: string) => sql`update webhookpub.settings set ${sql(name)} = ${value}`;
    for (const value of ["10000 years", "-10000 years", "-1 microsecond", "0"]) {
      const error = await set(value).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      t.match(
        error,
        {
          code: "23514",
          constraint_name: new RegExp(
            `^settings_\\w*${name.replace(/^\w+_(?=retention)/, "")}_is_`,
          ),
        },
        `${name} of ${value}`,
      );
    }
    await set(name === "request_timeout" ? "30 seconds" : "10 years");
  }
  t.match(await maintain(sql), { delete_events: 0 });
});

void t.test("two rounds do not meet: the second does nothing", async (t) => {
  const { sql, session } = await testDatabase(t);
  await insertEvent(sql, { id: "evt_old", day: -40 });
  const first = session();
  await first`begin`;
  t.match(await maintain(first), { delete_events: 1 });
  t.strictSame(await maintain(sql), {});
  await first`rollback`;
  t.match(await maintain(sql), { delete_events: 1 });
});

void t.test("upkeep gives way to whoever uses a table", async (t) => {
  const { sql, session } = await testDatabase(t);
  const [publisher, other, keeper] = [session(), session(), session()];
  // If it waited, this would end it with an error.
  await keeper`set statement_timeout = '60s'`;
  await createWebhook(sql);
  await maintain(sql);
  await makePartitions(sql, "envelopes", -40, -39);
  await insertEvent(sql, { id: "evt_old", day: -40 });
  const old = async () => (await partitions(sql, "envelopes")).filter((day) => day < -1);

  await t.test("a publisher's open transaction", async (t) => {
    const publishDirectly = (own: Sql) =>
      own`select webhook_publish('email.received', 'user_1', '{}')`;
    await publisher`begin`;
    await publishDirectly(publisher);
    t.match(await maintain(keeper), { drop_partitions: 0, delete_events: 1 }, "it does the rest");
    t.strictSame(await old(), [-40, -39]);
    await other`set lock_timeout = '5s'`;
    await publish(other);
    await publishDirectly(other);
    await publishDirectly(publisher);
    await publisher`commit`;
    t.equal((await sql`select from webhookpub.deliveries`).count, 3);
    for (let round = 0; round < 2; round++) await maintain(keeper);
    t.strictSame(await old(), [], "a later round has done it");
  });

  await t.test("and while it waits for one table, the other is free", async (t) => {
    await makePartitions(sql, "envelopes", -42, -40);
    await makePartitions(sql, "attempts", -60, -40);
    const reader = publisher;
    await reader`begin`;
    await reader`select from webhookpub.attempts`;
    const pid = await backendOf(keeper);
    let running = true;
    const round = maintain(keeper).finally(() => (running = false));
    let held = 0;
    await until(async () => {
      const locks = await sql`
        select from pg_locks as l
        where l.pid = ${pid} and l.relation = 'webhookpub.envelopes'::regclass and l.granted
          and l.mode = 'AccessExclusiveLock'
          and exists (select from pg_locks as w where w.pid = ${pid} and not w.granted)`;
      held += locks.count;
      return !running;
    }, "the round");
    t.match(await round, { drop_partitions: Number });
    t.equal(held, 0, "publishers never waited behind both");
    await reader`commit`;
  });
});
