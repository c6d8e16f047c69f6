// The whole pipeline gives the same whatever settings the database or the role has: those of the
// worker, of upkeep and of `migrate` come from us, and what applications call depends on none.
import postgres from "postgres";
import t, { type Test } from "tap";
import type { Sql } from "../src/database/connect.ts";
import { emptyDatabase, type TestDatabase } from "./support/database.ts";
import { runProgram } from "./support/program.ts";
import { type Receiver, startReceiver } from "./support/receiver.ts";
import { until } from "./support/until.ts";
import { startWorkerProcess } from "./support/worker_process.ts";

type Settings = Readonly<Record<string, string>>;

/**
 * Settings that somebody may have, together where they have nothing to do with each other. One
 * that forbids to write is not among them: who sets it means it.
 */
const HOSTILE: Readonly<Record<string, Settings>> = {
  "dates in German": {
    datestyle: "German",
    timezone: "Pacific/Kiritimati",
    intervalstyle: "sql_standard",
    extra_float_digits: "-15",
    bytea_output: "escape",
    xmloption: "document",
  },
  "dates as in SQL, days first": {
    datestyle: "SQL, DMY",
    timezone: "America/St_Johns",
    intervalstyle: "iso_8601",
  },
  "dates as in old PostgreSQLs": {
    datestyle: "Postgres, YMD",
    timezone: "Europe/Berlin",
    intervalstyle: "postgres_verbose",
  },
  "another way to read and write": {
    standard_conforming_strings: "off",
    backslash_quote: "on",
    array_nulls: "off",
    transform_null_equals: "on",
    quote_all_identifiers: "on",
    client_encoding: "LATIN1",
    row_security: "off",
  },
  "other transactions": {
    default_transaction_isolation: "serializable",
    default_transaction_deferrable: "on",
    session_replication_role: "replica",
  },
  "little patience": {
    statement_timeout: "50ms",
    lock_timeout: "10ms",
    idle_in_transaction_session_timeout: "50ms",
    idle_session_timeout: "50ms",
  },
  "other plans": {
    plan_cache_mode: "force_generic_plan",
    enable_indexscan: "off",
    enable_nestloop: "off",
    enable_hashjoin: "off",
    enable_partition_pruning: "off",
    jit_above_cost: "0",
    work_mem: "64kB",
    parallel_setup_cost: "0",
    parallel_tuple_cost: "0",
    min_parallel_table_scan_size: "0",
  },
  "other names": {
    search_path: "hostile",
    default_tablespace: "hostile",
    temp_tablespaces: "hostile",
    "plpgsql.variable_conflict": "use_column",
    "plpgsql.extra_errors": "all",
  },
};

/** What a role has goes before what its database has: of each kind one. */
const ON_ROLE = new Set(["dates in German", "another way to read and write", "little patience"]);

const USER = "user_1";
const DATA = String.raw`{"text": "C:\\temp 'ü' \u0041", "amount": 1234567890.123456789, "tiny": 1e-7}`;

/** An application's own patience is its own matter. */
const PATIENCE = {
  statement_timeout: "0",
  lock_timeout: "0",
  idle_in_transaction_session_timeout: "0",
  idle_session_timeout: "0",
};

const nameOf = ({ url }: TestDatabase) => new URL(url).pathname.slice(1);

const admin = await emptyDatabase(t);
const own = admin.session();
await own`set allow_in_place_tablespaces = on`;
await own`create tablespace hostile location ''`;
t.teardown(() => own`drop tablespace hostile`);

let expected: unknown;
await t.test("with none of them", async (t) => {
  const database = await emptyDatabase(t);
  expected = await outcome(t, database, database.url);
});

// Most of the time of each is a wait for retries.
t.jobs = 3;

for (const [name, settings] of Object.entries(HOSTILE)) {
  void t.test(`${name}, set on the database`, async (t) => {
    const database = await emptyDatabase(t);
    await setAll(database.sql, `database ${nameOf(database)}`, settings);
    t.strictSame(await outcome(t, database, database.url), expected);
  });

  if (!ON_ROLE.has(name)) continue;
  void t.test(`${name}, set on the role`, async (t) => {
    const database = await emptyDatabase(t);
    const role = `hostile_${nameOf(database)}`;
    await database.sql.unsafe(`create role ${role} superuser login`);
    t.teardown(() =>
      database.sql.unsafe(
        `reassign owned by ${role} to postgres; drop owned by ${role}; drop role ${role}`,
      ),
    );
    await setAll(database.sql, `role ${role}`, settings);
    const url = new URL(database.url);
    url.username = role;
    t.strictSame(await outcome(t, database, url.href), expected);
  });
}

async function setAll(sql: Sql, whose: string, settings: Settings): Promise<void> {
  await sql`create schema hostile`;
  for (const [setting, value] of Object.entries(settings)) {
    await sql.unsafe(`alter ${whose} set ${setting} = '${value}'`);
  }
}

/**
 * Installs, publishes on all paths, delivers, retries, replays, looks and tidies up, with a real
 * worker, and an application that pins nothing; then says what has become of it all, without
 * what is random.
 */
async function outcome(t: Test, { sql }: TestDatabase, url: string): Promise<unknown> {
  const installed = await runProgram("src/migrate.ts", { DATABASE_URL: url });
  t.equal(installed.code, 0, installed.output);
  await sql`
    update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const [{ begun }] = await sql<[{ begun: string }]>`select now() as begun`;
  const receiver = await startReceiver(t);
  receiver.reply = ({ path, body, headers }) => {
    const succeeds = headers["webhook-attempt"] !== "1" || body.includes('"test": true');
    return succeeds ? { status: 200, body: "été" } : path === "/reset" ? "reset" : 503;
  };
  const worker = await startWorkerProcess(t, url);
  const application = postgres(url, { max: 1, onnotice: () => {}, connection: PATIENCE as object });
  t.teardown(() => application.end({ timeout: 1 }));
  const seen = await useAll(application, sql, receiver);
  worker.kill("SIGTERM");
  await worker.ended();
  t.notMatch(worker.output(), /^(?:error|warning):/m, "the worker has nothing to complain of");
  return { seen, ...(await left(sql, begun, receiver)) };
}

/** What an application does, from the catalog to upkeep; returns what it was told. */
async function useAll(application: postgres.Sql, sql: Sql, receiver: Receiver) {
  const call = (query: string, ...args: string[]) => application.unsafe(query, args);
  const allDelivered = (count: number) =>
    until(
      async () =>
        (await sql`select from webhookpub.deliveries where status = 'delivered'`).count >= count,
      `${count} deliveries`,
    );

  await call("insert into webhookpub.event_types (name) values ('order.paid')");
  const create = `select webhook_id as id, signing_secret as secret from webhookpub.create_webhook(
    $1, $2, '{order.*,email.sent}', $3::text::jsonb, p_headers => $4::text::jsonb,
    p_signature_scheme => $5, p_retry_schedule => '{1 second,00:00:02}')`;
  const filters = String.raw`{"labels": ["a\\b"], "data": "$.amount > 100 && $.text like_regex \"^C\""}`;
  const [first] = await call(
    create,
    USER,
    receiver.url("/first"),
    filters,
    `{"X-Key": "'k'"}`,
    "standard",
  );
  await call(create, USER, receiver.url("/reset"), "{}", "{}", "stripe");

  const ids = [];
  for (const [path, id] of [
    ["webhook_publish_tx", String.raw`msg\1`],
    ["webhook_publish_best_effort_tx", "msg'2"],
    ["webhook_publish", "msg_3"],
  ] as const) {
    const [row] = await call(
      `select public.${path}(
        'order.paid', $1, $2::text::jsonb, labels => array[$3], message_id => $4) as id`,
      USER,
      DATA,
      String.raw`a\b`,
      id,
    );
    ids.push(row?.["id"]);
  }
  const [failed] = await call(
    "select public.webhook_publish_best_effort_tx('order.sent', $1, '{}') as id",
    USER,
  );
  await allDelivered(6);

  await call("insert into webhookpub.event_types (name) values ('order.sent')");
  const [retried] = await call("select webhookpub.retry_publish_failures() as count");
  await allDelivered(7);
  const [test] = await call("select webhookpub.test_webhook($1) as id", first?.["id"]);
  await allDelivered(8);
  const replays = await call("select outcome, reason from webhookpub.redeliver($1)", ids[0]);
  await allDelivered(10);
  const [since] = await call(
    "select webhookpub.redeliver_since($1, now() - interval '1 hour', p_only_failed => false) as count",
    first?.["id"],
  );
  await allDelivered(13);
  await call("select webhookpub.rotate_secret($1, '01:00:00')", first?.["id"]);
  const why = await call("select matched, reason from webhookpub.explain_event($1)", ids[1]);
  await sql`drop table ${sql(await lastPartition(sql))}`;
  await call("select webhookpub.disable_webhook($1)", first?.["id"]);
  // A round without rows does nothing, for another has its turn.
  let upkeep: postgres.Row[];
  do {
    upkeep = [...(await call("select task, affected from webhookpub.maintain()"))];
  } while (upkeep.length === 0 || upkeep.some(({ affected }) => Number(affected) > 0));
  const [log] = await call(
    "select count(*), bool_and(url like 'http%') as ok from webhookpub.delivery_log",
  );
  const events = await call(
    "select event_type, status, deliveries, attempts from webhookpub.event_log order by 1, 2",
  );
  const metrics = await call(
    "select name, value::text as value from webhookpub.metrics where name not like '%\\_seconds' order by name",
  );
  const [health] = await call(
    "select count(*), sum(recent_attempts), min(success_rate)::text from webhookpub.webhook_health",
  );
  return {
    ids,
    failed,
    retried,
    isTested: String(test?.["id"]).startsWith("whd_"),
    replays,
    since,
    why,
    log,
    events,
    metrics,
    health,
  };
}

async function lastPartition(sql: Sql): Promise<string> {
  const [row] = await sql<[{ name: string }]>`
    select 'webhookpub.' || max(c.relname) as name
    from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'webhookpub.attempts'::regclass and c.relname ~ '[0-9]{8}$'`;
  return row.name;
}

/** What is left in the tables, without ids and times, but for whether those make sense. */
async function left(sql: Sql, begun: string, receiver: Receiver) {
  const deliveries = await sql`
    select event_type, message_id, left(replay_id, 4) as replay, status, attempts, max_attempts,
      last_status_code, last_error, next_attempt_at,
      expires_at - created_at = interval '90 days' as expires,
      last_attempt_at between ${begun} and now() and delivered_at between ${begun} and now() as timed
    from webhookpub.deliveries order by 1, 2, 3, 5, max_attempts`;
  const attempts = await sql`
    select a.attempt, a.outcome, a.status_code, a.error, a.response_body,
      a.started_at between ${begun} and now() as timed,
      a.tableoid::regclass::text ~ to_char(a.started_at at time zone 'UTC', 'YYYYMMDD$') as at_home
    from webhookpub.attempts as a order by 1, 2, 3, 5`;
  const events = await sql`
    select type, user_id, agent_id, labels, message_id, status, cardinality(matched_webhook_ids),
      attempts, created_at between ${begun} and now() as timed,
      expires_at - created_at = interval '30 days' as expires
    from webhookpub.events order by type, message_id`;
  const [partition] = await sql`
    select
      n.name = to_char(n.day, '"webhookpub.attempts_"YYYYMMDD') as is_the_last,
      pg_get_expr(c.relpartbound, c.oid) = format(
        'FOR VALUES FROM (%L) TO (%L)',
        to_char(n.day, 'YYYY-MM-DD "00:00:00+00"'),
        to_char(n.day + interval '1 day', 'YYYY-MM-DD "00:00:00+00"')
      ) as is_of_its_day,
      obj_description(c.oid) = 'attempts of ' || to_char(n.day, 'YYYY-MM-DD') || '.' as is_said,
      c.relrowsecurity
    from (select ${await lastPartition(sql)} as name, now() + interval '14 days' as day) as n
    join pg_class as c on c.oid = n.name::regclass`;
  const [rest] = await sql`
    select
      (select event_types from webhookpub.settings),
      (select count(*) from webhookpub.publish_failures) as failures,
      (select count(*) from webhookpub.envelopes_default) as strays,
      (select headers from webhookpub.webhooks where headers <> '{}') as headers`;
  const bodies = receiver.requests.map(({ body }) =>
    body
      .replace(/"id": "evt_[0-9a-f]{32}"/, "ID")
      .replace(/"created_at": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"/, "TIME"),
  );
  return {
    deliveries: [...deliveries],
    attempts: [...attempts],
    events: [...events],
    partition,
    rest,
    // One that was reset on a connection in use may have been sent once more.
    bodies: [...new Set(bodies)].sort(),
  };
}
