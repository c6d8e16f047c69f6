// Who may do what, found out by doing it: each function, table and view as each role.
import postgres from "postgres";
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { createLogin } from "../support/login.ts";
import { createWebhook, publish } from "../support/scene.ts";

const database = await testDatabase(t);
const { sql } = database;

const ROLES = {
  P: "webhookpub_publisher",
  W: "webhookpub_worker",
  O: "webhookpub_operator",
  R: "webhookpub_readonly",
  T: "webhookpub_tenant",
} as const;
type Letter = keyof typeof ROLES;
const LETTERS = Object.keys(ROLES) as Letter[];

/** Two users with something of everything; the tenant is user_1. */
const scene = await (async () => {
  const webhook = await createWebhook(sql, { events: "{*}", headers: '{"x-key": "k"}' });
  await createWebhook(sql, { userId: "user_2", events: "{*}" });
  for (const userId of ["user_1", "user_2"]) {
    await publish(sql, { userId, count: 3 });
    await sql`select webhook_publish_best_effort_tx('no.such_type', ${userId}, '{}')`;
  }
  await sql`select webhookpub.fan_out(4)`;
  await sql`
    select webhookpub.record_attempts(
      array[l.delivery_id], array[l.attempt], array[l.started_at], array[7],
      array['responded'], array[500], array[null], array['oops'], array[null]
    )
    from webhookpub.lease_deliveries(array(select id from webhookpub.webhooks)) as l`;
  const [delivery] = await sql<[{ id: string; event_id: string }]>`
    select id, event_id from webhookpub.deliveries where webhook_id = ${webhook.id} limit 1`;
  return { webhook: webhook.id, delivery: delivery.id, event: delivery.event_id };
})();

const logins = new Map<Letter, Sql>();
for (const letter of LETTERS) {
  const login = await createLogin(t, database, ROLES[letter]);
  logins.set(letter, login.sql);
  if (letter === "T") {
    await sql`insert into webhookpub.tenants values (${login.role}, 'user_1')`;
  }
}

/** What became of a statement that left no trace. */
async function attempt(session: Sql, statement: string): Promise<"done" | postgres.PostgresError> {
  try {
    await session.begin(async (tx) => {
      await tx.unsafe(statement);
      throw new Error("undo");
    });
  } catch (error) {
    if (error instanceof postgres.PostgresError) return error;
    if ((error as Error).message !== "undo") throw error;
  }
  return "done";
}

/** No privilege; or a view that nobody can write to. */
const DENIED = new Set(["42501", "55000"]);

/** The roles that may run a statement; any other must be denied this very object. */
async function whoMay(statement: string, object: string): Promise<string> {
  let allowed = "";
  for (const [letter, session] of logins) {
    const outcome = await attempt(session, statement);
    // A trigger function that may be executed says that it is one.
    if (outcome === "done" || outcome.code === "0A000") allowed += letter;
    else if (!DENIED.has(outcome.code) || !outcome.message.includes(object)) {
      throw new Error(`${ROLES[letter]}: ${statement}: ${outcome.code} ${outcome.message}`);
    }
  }
  return allowed;
}

// Functions ---------------------------------------------------------------------------

const NOBODY = "";
const now = "clock_timestamp()";

/** Who may call each function, and a call of it. A new function has to be added here. */
const FUNCTIONS: Record<string, readonly [roles: string, call: string]> = {
  webhook_publish_tx: ["P", "webhook_publish_tx('email.sent', 'user_1', '{}')"],
  webhook_publish_best_effort_tx: [
    "P",
    "webhook_publish_best_effort_tx('email.sent', 'user_1', '{}')",
  ],
  webhook_publish: ["P", "webhook_publish('email.sent', 'user_1', '{}')"],
  event_id: ["PORT", "webhookpub.event_id('msg_1')"],
  is_valid_event_type: ["PORT", "webhookpub.is_valid_event_type('email.sent')"],
  random_event_id: ["P", "webhookpub.random_event_id()"],
  random_hex: [NOBODY, "webhookpub.random_hex()"],

  create_webhook: ["O", "webhookpub.create_webhook('user_1', 'https://a.example/', '{*}')"],
  update_webhook: ["O", `webhookpub.update_webhook('${scene.webhook}', p_events => '{*}')`],
  enable_webhook: ["O", `webhookpub.enable_webhook('${scene.webhook}')`],
  disable_webhook: ["O", `webhookpub.disable_webhook('${scene.webhook}')`],
  delete_webhook: ["O", `webhookpub.delete_webhook('${scene.webhook}')`],
  rotate_secret: ["O", `webhookpub.rotate_secret('${scene.webhook}')`],
  redeliver: ["O", `webhookpub.redeliver('${scene.event}')`],
  redeliver_since: ["O", `webhookpub.redeliver_since('${scene.webhook}', 'epoch')`],
  test_webhook: ["O", `webhookpub.test_webhook('${scene.webhook}')`],
  retry_publish_failures: ["O", "webhookpub.retry_publish_failures()"],
  check_event_types: [NOBODY, "webhookpub.check_event_types('[]')"],
  register_event_types: ["O", `webhookpub.register_event_types('[{"name": "a.b"}]')`],
  fan_out: ["WO", "webhookpub.fan_out()"],
  maintain: ["WO", "webhookpub.maintain()"],

  closed_networks: ["W", "webhookpub.closed_networks()"],
  wake: ["W", "webhookpub.wake()"],
  fan_out_batch: ["W", "webhookpub.fan_out_batch()"],
  enter_fan_out: ["W", "webhookpub.enter_fan_out()"],
  leave_fan_out: ["W", "webhookpub.leave_fan_out()"],
  lease_deliveries: ["W", `webhookpub.lease_deliveries(array['${scene.webhook}'])`],
  lease_requests: ["W", `webhookpub.lease_requests(array['${scene.delivery}'])`],
  release_deliveries: ["W", `webhookpub.release_deliveries(array['${scene.delivery}'], '{1}')`],
  record_attempts: [
    "W",
    `webhookpub.record_attempts(array['${scene.delivery}'], '{1}', array[${now}], '{1}', '{responded}',
      '{200}', '{null}', '{null}', '{null}')`,
  ],

  explain_event: ["ORT", `webhookpub.explain_event('${scene.event}')`],
  stored_envelope: ["ORT", `webhookpub.stored_envelope('${scene.event}', ${now})`],
  type_patterns: ["ORT", "webhookpub.type_patterns('email.sent')"],
  unmatched_clause: ["ORT", "webhookpub.unmatched_clause(null, null, null, null)"],
  data_holds: ["ORT", "webhookpub.data_holds('{}', '$.a == 1', null)"],
  current_user_id: ["ORT", "webhookpub.current_user_id()"],
  check_privileges: ["OR", "webhookpub.check_privileges()"],
  diagnose: ["OR", "webhookpub.diagnose()"],
  diagnose_server: [NOBODY, "webhookpub.diagnose_server()"],
  diagnose_work: [NOBODY, "webhookpub.diagnose_work()"],
  version: ["WORT", "webhookpub.version()"],
  last_migration: ["WORT", "webhookpub.last_migration()"],

  read_metrics: ["W", "webhookpub.read_metrics()"],
  read_jobs: ["OR", "webhookpub.read_jobs()"],
  read_partitions: ["OR", "webhookpub.read_partitions()"],
  read_sessions: ["OR", "webhookpub.read_sessions()"],

  create_roles: [NOBODY, "webhookpub.create_roles()"],
  grant_functions: [NOBODY, "webhookpub.grant_functions()"],
  grant_jobs: [NOBODY, "webhookpub.grant_jobs()"],
  grant_tables: [NOBODY, "webhookpub.grant_tables()"],
  install_roles: [NOBODY, "webhookpub.install_roles()"],
  lock_tables: [NOBODY, "webhookpub.lock_tables('pg_class')"],
  own_objects: [NOBODY, "webhookpub.own_objects()"],
  settle_privileges: [NOBODY, "webhookpub.settle_privileges()"],
  address_is_open: [NOBODY, "webhookpub.address_is_open('1.1.1.1', '{}')"],
  check_events: [NOBODY, "webhookpub.check_events('{*}')"],
  check_filters: [NOBODY, "webhookpub.check_filters('{}')"],
  check_headers: [NOBODY, "webhookpub.check_headers('{}')"],
  check_url: [NOBODY, "webhookpub.check_url('https://a.example/')"],
  check_webhook: [NOBODY, "webhookpub.check_webhook(null)"],
  events_by_turn: [NOBODY, "webhookpub.events_by_turn(0, '{}', now())"],
  oldest_events: [NOBODY, "webhookpub.oldest_events(0, '{}', now())"],
  fail_events: [NOBODY, "webhookpub.fail_events('{}', '')"],
  fan_out_singly: [NOBODY, "webhookpub.fan_out_singly('{}', '')"],
  fit_batch: [NOBODY, "webhookpub.fit_batch('{}', 0)"],
  time_is_up: [NOBODY, "webhookpub.time_is_up()"],
  predicate_fault: [NOBODY, "webhookpub.predicate_fault('$.a > 1')"],
  predicate_outline: [NOBODY, "webhookpub.predicate_outline('$.a > 1')"],
  predicate_shape: [NOBODY, "webhookpub.predicate_shape('$ > k')"],
  regex_fault: [NOBODY, "webhookpub.regex_fault('$.a > 1')"],
  find_webhook: [NOBODY, `webhookpub.find_webhook('${scene.webhook}')`],
  find_event: [NOBODY, `webhookpub.find_event('${scene.event}')`],
  lock_webhook: [NOBODY, `webhookpub.lock_webhook('${scene.webhook}')`],
  lower_names: [NOBODY, "webhookpub.lower_names('{}')"],
  new_secret: [NOBODY, "webhookpub.new_secret()"],
  fan_out_is_asleep: [NOBODY, "webhookpub.fan_out_is_asleep()"],
  refuse_event: [NOBODY, "webhookpub.refuse_event('email.sent', 'user_1', '{}', null, null, 0, 1)"],
  rfc3339: [NOBODY, `webhookpub.rfc3339(${now})`],
  add_deliver_jobs: [NOBODY, `webhookpub.add_deliver_jobs(array['${scene.webhook}'])`],
  delivery_id: [NOBODY, `webhookpub.delivery_id(${now})`],
  fan_out_events: [NOBODY, "webhookpub.fan_out_events('{}')"],
  users_of: [NOBODY, "webhookpub.users_of('{}')"],
  next_events: [NOBODY, "webhookpub.next_events(1)"],
  next_heavy: [NOBODY, "webhookpub.next_heavy()"],
  heavy_waits: [NOBODY, "webhookpub.heavy_waits()"],
  queue_deliveries: [NOBODY, `webhookpub.queue_deliveries('{}', '{}', null, null, 0, ${now})`],
  requests_at_birth: [NOBODY, "webhookpub.requests_at_birth('{}', '{}')"],
  leases_at_birth: [NOBODY, `webhookpub.leases_at_birth('{}', '{}', 0, ${now})`],
  filter_values: [NOBODY, "webhookpub.filter_values('{}', 'labels')"],
  due_deliveries: [
    NOBODY,
    `webhookpub.due_deliveries(array['${scene.webhook}'], '{1}', ${now}, null)`,
  ],
  signed_requests: [NOBODY, `webhookpub.signed_requests(array['${scene.delivery}'])`],
  first_delivery_prefix: [NOBODY, `webhookpub.first_delivery_prefix('evt_1', ${now})`],
  end_deliveries: [NOBODY, "webhookpub.end_deliveries('{}', 'cancelled')"],
  hold_answers: [
    NOBODY,
    `webhookpub.hold_answers(array['${scene.delivery}'], '{410}', '{null}', ${now})`,
  ],
  judge_answers: [
    NOBODY,
    `webhookpub.judge_answers('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', ${now})`,
  ],
  apply_verdicts: [NOBODY, `webhookpub.apply_verdicts('{}', ${now})`],
  put_back_deliveries: [NOBODY, "webhookpub.put_back_deliveries('{}')"],
  rate_webhooks: [NOBODY, `webhookpub.rate_webhooks('{}', ${now})`],
  circuit_pause: [NOBODY, "webhookpub.circuit_pause(5)"],
  others_publish: [NOBODY, "webhookpub.others_publish()"],
  notify_is_due: [NOBODY, "webhookpub.notify_is_due()"],
  json_hint: [NOBODY, "webhookpub.json_hint('{}', '')"],
  is_event_id: [NOBODY, "webhookpub.is_event_id('evt_1')"],
  requests_allowed: [NOBODY, `webhookpub.requests_allowed(null, true, null, ${now})`],
  standing: [NOBODY, `webhookpub.standing(null, ${now})`],
  webhook_waits_for: ["ORT", `webhookpub.webhook_waits_for(null, true, null, ${now})`],
  webhook_waits: ["ORT", `webhookpub.webhook_waits('${scene.webhook}')`],
  pace_allows: [NOBODY, `webhookpub.pace_allows(1, null, ${now})`],
  pace_burst: [NOBODY, "webhookpub.pace_burst(1)"],
  spend_pace: [NOBODY, `webhookpub.spend_pace('{}', '{}', ${now})`],
  keep_order: [NOBODY, "webhookpub.keep_order('{}')"],
  early_events: [NOBODY, "webhookpub.early_events('{}', now())"],
  hold_tails: [NOBODY, "webhookpub.hold_tails('{}')"],
  take_turns: [NOBODY, "webhookpub.take_turns('{}', '{}', '{}', '{}')"],
  hold_turns: [NOBODY, "webhookpub.hold_turns('{}', '{}', '{}')"],
  next_turns: [NOBODY, "webhookpub.next_turns('{}', '{}')"],
  pass_turns: [NOBODY, `webhookpub.pass_turns('{}', ${now})`],
  keep_attempts: [NOBODY, "webhookpub.keep_attempts('{}', '{}')"],
  put_off_answers: [NOBODY, "webhookpub.put_off_answers('{}')"],
  follow_answers: [NOBODY, `webhookpub.follow_answers('{}', null, ${now})`],
  hold_leases: [NOBODY, "webhookpub.hold_leases('{}', '{}')"],
  room_at_birth: [NOBODY, `webhookpub.room_at_birth('x', 4, ${now})`],
  webhook_fault: [NOBODY, "webhookpub.webhook_fault(null)"],
  end_order: [NOBODY, `webhookpub.end_order('${scene.webhook}')`],
  skip: ["O", `webhookpub.skip('${scene.delivery}')`],
  publish_row: ["P", "webhookpub.publish_row()"],
  tg_event_types__copy_names: [NOBODY, "webhookpub.tg_event_types__copy_names()"],
  tg_webhooks__tell: [NOBODY, "webhookpub.tg_webhooks__tell()"],
  delivery_is_on: [NOBODY, "webhookpub.delivery_is_on()"],
  hmac_sha256: [NOBODY, "webhookpub.hmac_sha256('a', 'b')"],
  sign_standard: [NOBODY, "webhookpub.sign_standard('whsec_AAAA', 'evt_1', 1, '')"],
  sign_request: [NOBODY, "webhookpub.sign_request('standard', 'whsec_AAAA', null, 'evt_1', 1, '')"],
  sign_stripe: [NOBODY, "webhookpub.sign_stripe('whsec_AAAA', 1, '')"],
  disable_webhooks: [NOBODY, "webhookpub.disable_webhooks('{}', 'gone')"],
  publish_delivery_failed: [NOBODY, "webhookpub.publish_delivery_failed('{}')"],
  retry_after: [NOBODY, `webhookpub.retry_after('1', ${now})`],
  default_retry_schedule: [NOBODY, "webhookpub.default_retry_schedule()"],
  next_attempt_at: [NOBODY, "webhookpub.next_attempt_at('{1 min}', 1)"],
  sweep_webhooks: [NOBODY, `webhookpub.sweep_webhooks(true, ${now})`],
  wake_suspects: [NOBODY, `webhookpub.wake_suspects(${now})`],
  wake_deliveries: [NOBODY, `webhookpub.wake_deliveries(${now})`],
  cancel_deleted: [NOBODY, "webhookpub.cancel_deleted()"],
  create_partition: [NOBODY, "webhookpub.create_partition('webhookpub.envelopes', '2100-01-01')"],
  create_partitions: [NOBODY, "webhookpub.create_partitions('webhookpub.envelopes')"],
  delete_webhooks: [NOBODY, "webhookpub.delete_webhooks()"],
  expire_secrets: [NOBODY, "webhookpub.expire_secrets()"],
  keep_partitions: [NOBODY, `webhookpub.keep_partitions(${now})`],
  partition_key: [NOBODY, "webhookpub.partition_key('webhookpub.envelopes')"],
  partitions_of: [NOBODY, "webhookpub.partitions_of('webhookpub.envelopes')"],
  has_strays: [NOBODY, "webhookpub.has_strays('webhookpub.envelopes')"],
  settle_strays: [NOBODY, `webhookpub.settle_strays('webhookpub.envelopes', ${now})`],
  swap_check: [NOBODY, "webhookpub.swap_check('webhookpub.envelopes')"],
  swap_default: [NOBODY, "webhookpub.swap_default('webhookpub.envelopes')"],
  add_task_job: [NOBODY, "webhookpub.add_task_job('webhook_maintain')"],
  due_suspects: [NOBODY, `webhookpub.due_suspects(array['${scene.webhook}'], ${now})`],
  park_lost: [NOBODY, "webhookpub.park_lost()"],
  delete_expired: [NOBODY, "webhookpub.delete_expired()"],
  delete_failed_jobs: [NOBODY, "webhookpub.delete_failed_jobs()"],
  disable_failing: [NOBODY, "webhookpub.disable_failing()"],
  drop_partitions: [NOBODY, "webhookpub.drop_partitions('webhookpub.envelopes', '-infinity')"],
  envelopes_are_needed: [NOBODY, `webhookpub.envelopes_are_needed(${now}, ${now})`],
};

void t.test("every function is for the roles that are listed here, and for no other", async (t) => {
  const found = await sql<{ name: string; overloads: number }[]>`
    select p.proname as name, count(*)::integer as overloads
    from pg_proc as p
    where p.pronamespace = 'webhookpub'::regnamespace
      or (p.pronamespace = 'public'::regnamespace and p.proname like 'webhook\\_%')
    group by p.proname
    order by p.proname`;
  t.strictSame(
    found.map(({ name }) => name),
    Object.keys(FUNCTIONS).toSorted(),
    "a function that is new: decide in sql/9_roles/grant_functions.sql, and list it here",
  );
  t.strictSame(
    found.filter(({ overloads }) => overloads > 1),
    [],
    "one function a name: grants go by it",
  );
  for (const { name } of found) {
    const [roles, call] = FUNCTIONS[name] ?? [NOBODY, "null"];
    const statement = `select * from (select ${call}) as called`;
    const asOwner = await attempt(sql, statement);
    // Refused for what it says, or because it is a trigger's; but it is a call.
    if (asOwner !== "done") t.match(asOwner.code, /^(?:WH...|0A000)$/, asOwner.message);
    t.equal(await whoMay(statement, `function ${name}`), roles, name);
  }
});

// Tables, views, columns --------------------------------------------------------------

/** Who may read each table and view. A new one has to be added here. */
const READERS: Record<string, string> = {
  attempts: "ORT",
  backlog: "OR",
  deliveries: "ORT",
  delivery_history: "ORT",
  delivery_log: "ORT",
  envelopes: "ORT",
  envelopes_by_event: "ORT",
  event_log: "ORT",
  event_types: "ORT",
  events: "ORT",
  expiry: NOBODY,
  jobs: "OR",
  metrics: "OR",
  migrations: NOBODY,
  partitions: "OR",
  publish_failures: "ORT",
  queue: "ORT",
  secrets: NOBODY,
  sessions: "OR",
  paces: NOBODY,
  settings: "OR",
  settled_objects: NOBODY,
  sweep: NOBODY,
  tenants: "ORT",
  upkeep: "OR",
  webhook_health: "ORT",
  webhooks: "ORT",
};

/** The sequences that somebody may read; nobody may advance one. */
const SEQUENCE_READERS: Record<string, string> = { attempts_recorded: "OR" };

/** The few columns that may be written. */
const WRITABLE: Record<string, readonly string[]> = {
  settings: [
    "auto_disable_after",
    "auto_disable_min_failures",
    "deliver_enabled",
    "max_payload_bytes",
    "max_webhooks_per_user",
    "publish_enabled",
    "request_timeout",
  ],
};

const relations = await sql<
  { name: string; kind: string; partition: boolean; plain: string; columns: string[] }[]
>`
  select
    c.relname as name, c.relkind as kind, c.relispartition as partition,
    (
      select min(a.attname::text)
      from pg_attribute as a
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        and a.attgenerated = '' and a.attidentity = ''
    ) as plain,
    array(
      select a.attname::text
      from pg_attribute as a
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      order by a.attname
    ) as columns
  from pg_class as c
  where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  order by c.relname`;
const named = relations.filter(({ kind, partition }) => !partition && kind !== "S");

void t.test("every table and view is read by those who are listed, and by no other", async (t) => {
  t.strictSame(
    named.map(({ name }) => name),
    Object.keys(READERS).toSorted(),
    "one that is new: decide in sql/9_roles/grant_tables.sql, and list it here",
  );
  t.ok(relations.length - named.length > 30, "partitions and sequences");
  for (const relation of relations) {
    const { name, kind, partition } = relation;
    const listed = kind === "S" ? (SEQUENCE_READERS[name] ?? NOBODY) : READERS[name];
    const readers = partition ? NOBODY : listed;
    t.equal(await whoMay(`select * from webhookpub.${name}`, name), readers, name);
  }
});

void t.test("nobody writes, but for the operator's settings and event types", async (t) => {
  for (const { name, kind, plain, columns } of relations) {
    if (kind === "S") {
      t.equal(await whoMay(`select nextval('webhookpub.${name}')`, name), NOBODY, name);
      continue;
    }
    const may = (statement: string) => whoMay(statement, name);
    const insert = `insert into webhookpub.${name} (${plain}) select null where false`;
    t.equal(await may(insert), name === "event_types" ? "O" : NOBODY, `insert into ${name}`);
    t.equal(await may(`delete from webhookpub.${name}`), NOBODY, `delete from ${name}`);
    if (kind !== "v") {
      t.equal(await may(`truncate webhookpub.${name}`), NOBODY, `truncate ${name}`);
    }
    const written: string[] = [];
    for (const column of columns) {
      const roles = await may(`update webhookpub.${name} set ${column} = default where false`);
      if (roles !== NOBODY) written.push(`${roles} ${column}`);
    }
    t.strictSame(
      written,
      (WRITABLE[name] ?? []).map((column) => `O ${column}`),
      `update ${name}`,
    );
  }
  t.equal(await whoMay("create table webhookpub.mine ()", "schema webhookpub"), NOBODY);
  t.equal(await whoMay("create table graphile_worker.mine ()", "graphile_worker"), NOBODY);
  t.equal(await whoMay("select * from graphile_worker._private_jobs", "graphile_worker"), "W");
  // Either would run as webhookpub's owner, whose functions add jobs.
  for (const statement of [
    `create trigger mine after insert on graphile_worker._private_jobs
      execute function suppress_redundant_updates_trigger()`,
    "alter function graphile_worker.add_jobs strict",
  ]) {
    t.match(await attempt(logins.get("W") ?? sql, statement), { code: "42501" }, statement);
  }
});

void t.test("the roles can't log in and may do nothing beyond webhookpub", async (t) => {
  const roles = await sql`
    select rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication
      or rolbypassrls as may
    from pg_roles where rolname = any (${Object.values(ROLES)})`;
  t.strictSame([...roles], Array(5).fill({ may: false }));
});
