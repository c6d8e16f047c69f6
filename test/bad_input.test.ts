// Whatever a role passes to a function that it may call: either it works, or the error is one
// of those that docs/errors.md names, and nothing has changed.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import postgres from "postgres";
import t from "tap";
import type { Sql } from "../src/database/connect.ts";
import { root } from "../src/config.ts";
import { testDatabase } from "./support/database.ts";
import { type Random, randomFrom } from "./support/random.ts";
import { createWebhook, publish } from "./support/scene.ts";

const CALLS = Number(process.env["CALLS"] ?? 30);
const ROLES = ["publisher", "worker", "operator", "readonly", "tenant"];

interface Parameter {
  readonly name: string;
  readonly type: string;
  readonly has_default: boolean;
}

interface PublicFunction {
  readonly name: string;
  readonly roles: string[];
  readonly variadic: boolean;
  readonly parameters: Parameter[];
}

/** Every function that some role may call, from the catalog. */
async function publicFunctions(sql: Sql): Promise<PublicFunction[]> {
  return await sql<PublicFunction[]>`
    select
      p.oid::regproc::text as name,
      p.provariadic <> 0 as variadic,
      array(
        select r.name
        from unnest(${ROLES}::text[]) as r (name)
        where has_function_privilege('webhookpub_' || r.name, p.oid, 'execute')
      ) as roles,
      (
        select coalesce(
          json_agg(
            json_build_object(
              'name', p.proargnames[a.i],
              'type', format_type(p.proargtypes[a.i - 1], null),
              'has_default', a.i > p.pronargs - p.pronargdefaults
            )
            order by a.i
          ),
          '[]'
        )
        from generate_series(1, p.pronargs) as a (i)
      ) as parameters
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where (n.nspname = 'webhookpub' or (n.nspname = 'public' and p.proname like 'webhook\\_%'))
      and p.prorettype <> 'trigger'::regtype
      and not exists (
        -- Made of a row or a parsed path: only other functions have one to pass.
        select from unnest(p.proargtypes) as a (type)
        join pg_type as y on y.oid = a.type
        where y.typtype = 'c' or y.typname = 'jsonpath'
      )
      and exists (
        select
        from unnest(${ROLES}::text[]) as r (name)
        where has_function_privilege('webhookpub_' || r.name, p.oid, 'execute')
      )
    order by 1`;
}

/** Ids that are there, of both users, and in every state. */
interface Ids {
  readonly webhooks: string[];
  readonly events: string[];
  readonly deliveries: string[];
}

async function idsIn(sql: Sql): Promise<Ids> {
  const [row] = await sql<[Ids]>`
    select
      array(select id from webhookpub.webhooks order by created_at desc limit 6) as webhooks,
      array(select id from webhookpub.events order by created_at desc limit 6) as events,
      array(select id from webhookpub.deliveries order by id desc limit 6) as deliveries`;
  return row;
}

/** What a caller who knows what he does passes, by the name of the parameter. */
const SENSIBLE: Readonly<Record<string, string>> = {
  event_type: "email.received",
  user_id: "user_1",
  data: '{"amount": 7}',
  agent_id: "agent_1",
  conversation_id: "conversation_1",
  labels: "{vip}",
  message_id: "message_1",
  dedup_key: "key_1",
  ordering_key: "order_1",
  name: "email.received",
  parts: "{message_1,email.received}",
  p_user_id: "user_1",
  p_url: "https://receiver.example/",
  p_events: "{email.*}",
  p_filters: '{"labels": ["vip"]}',
  p_description: "a description",
  p_headers: '{"authorization": "Bearer x"}',
  p_signature_scheme: "standard",
  p_max_in_flight: "20",
  p_retry_schedule: "{1 min,5 min}",
  p_request_timeout: "5 seconds",
  p_ordered: "true",
  p_max_per_second: "5",
  p_reason: "moving house",
  p_grace: "1 day",
  p_event_type: "email.sent",
  p_since: "2020-01-01",
  p_until: "tomorrow",
  p_only_failed: "false",
  p_dry_run: "false",
  p_limit: "10",
  p_room: "5",
  p_heavy: "true",
  p_limits: "{5}",
  p_window: "10 seconds",
  p_created_at: "2026-01-01",
  p_attempts: "{1}",
  p_started_at: "{now}",
  p_durations_ms: "{5}",
  p_outcomes: "{responded}",
  p_status_codes: "{500}",
  p_errors: "{NULL}",
  p_response_bodies: "{ok}",
  p_retry_afters: "{120}",
};

function sensible(random: Random, name: string, ids: Ids): string | null {
  if (name.endsWith("event_id")) return random.pick(ids.events);
  if (name === "p_webhook_id") return random.pick(ids.webhooks);
  if (name === "p_webhook_ids") return `{${ids.webhooks.join()}}`;
  if (name === "p_delivery_id") return random.pick(ids.deliveries);
  if (name === "p_delivery_ids") return `{${random.pick(ids.deliveries)}}`;
  const value = SENSIBLE[name];
  if (value === undefined) throw new Error(`what would one pass as ${name}?`);
  return value;
}

const LONG = "x".repeat(1_000_000);
/** Whether a value is one of the few huge ones: they are taken less often. */
const isHuge = (value: string | null) => (value?.length ?? 0) > 100_000;
const nested = (depth: number, open: string, close: string) =>
  `{"a":${open.repeat(depth)}1${close.repeat(depth)}}`;

const TEXTS: readonly (string | null)[] = [
  null,
  "",
  " ",
  "a",
  "*",
  "email.*",
  "email.received",
  "EMAIL.RECEIVED",
  "email.received ",
  "webhook.disabled",
  "no.such.type",
  "user_1",
  "user_2",
  "standard",
  "stripe",
  "Standard",
  "https://receiver.example/",
  "http://127.0.0.1/",
  "https://",
  "javascript:alert(1)",
  LONG,
  "x".repeat(200),
  "x".repeat(201),
  "\u0001\u001b[31m\u007f",
  "a\nb\r\nc\td",
  "Ünïcödé 👩‍👩‍👧 \u202e\u2028",
  "'; drop table webhookpub.events; --",
  '"',
  "\\",
  "%s %I %L %",
  "$1",
  "{}",
  "{a,b}",
  "null",
  "-1",
  "9223372036854775808",
  "0x7f",
  "evt_",
  "wh_0",
  "whd_ffffffffffff",
  "rpl_",
  "test_",
  "whsec_",
  "responded",
  "timed_out",
  "refused",
  "blocked",
  "Responded",
  "120",
  "Wed, 21 Oct 2099 07:28:00 GMT",
  "Wed, 99 Foo 0000 99:99:99 GMT",
  "9".repeat(200_000),
  "2026-01-01",
  "manual",
];

const JSONS: readonly (string | null)[] = [
  null,
  "null",
  "[]",
  "{}",
  "1",
  "true",
  '"x"',
  "[{}]",
  '{"a": 1}',
  '{"": ""}',
  '{"n": 9223372036854775808}',
  '{"n": -1e-300}',
  `{"n": ${"9".repeat(1000)}}`,
  '{"n": 1e1000}',
  `{"s": ${JSON.stringify(LONG)}}`,
  JSON.stringify({ [LONG]: 1 }),
  '{"a": "\\u0001\\ud83d\\ude00"}',
  nested(100, "[", "]"),
  nested(2000, "[", "]"),
  nested(2000, '{"a":', "}"),
  '{"labels": ["vip"]}',
  '{"labels": null}',
  '{"labels": [null]}',
  '{"labels": [""]}',
  '{"Labels": []}',
  '{"labels": {}}',
  '{"labels": [[["a"]]]}',
  '{"data": "$.amount > 100"}',
  '{"data": "$.**.a ? (@ like_regex \\"(\\")"}',
  '{"data": "$["}',
  '{"data": ""}',
  '{"data": 1}',
  `{"data": ${JSON.stringify("(".repeat(1999))}}`,
  `{"data": ${JSON.stringify(`${"!(".repeat(600)}$.a == 1${")".repeat(600)}`)}}`,
  '{"data": "$.a.datetime() > $x"}',
  `{"agent_ids": ${JSON.stringify(Array.from({ length: 51 }, String))}}`,
  '{"authorization": "Bearer x"}',
  '{"Host": "x"}',
  '{"x": 1}',
  '{"x": "\\n"}',
  '{"x": "ü"}',
  '{"": "x"}',
  '{"a": "1", "A": "2"}',
  '{"webhook-id": "x"}',
  `{"x": ${JSON.stringify("y".repeat(2001))}}`,
  JSON.stringify(Object.fromEntries(Array.from({ length: 21 }, (_, i) => [`h${i}`, ""]))),
];

const INTEGERS = [
  "0",
  "1",
  "-1",
  "2",
  "20",
  "200",
  "410",
  "503",
  "1000",
  "1001",
  "2147483647",
  "-2147483648",
  null,
];
const INTERVALS = [
  "0",
  "1 second",
  "-1 second",
  "1 microsecond",
  "0.4 ms",
  "30 seconds",
  "30.000001 seconds",
  "1 day",
  "30 days",
  "31 days",
  "1 mon",
  "-1 mon 31 days",
  "7 days",
  "178000000 years",
  "-178000000 years",
  "infinity",
  "-infinity",
  null,
];
const TIMES = [
  "now",
  "2020-01-01",
  "infinity",
  "-infinity",
  "4713-01-01 BC",
  "294276-12-31 23:59:59.999999+00",
  "1969-12-31",
  "epoch",
  "tomorrow",
  null,
];
const POOLS: Readonly<Record<string, readonly (string | null)[]>> = {
  text: TEXTS,
  jsonb: JSONS,
  integer: INTEGERS,
  bigint: [...INTEGERS, "9223372036854775807", "-9223372036854775808"],
  numeric: [...INTEGERS, "0.001", "0.0009", "1e-30", "NaN", "Infinity", "-Infinity", "10000.1"],
  boolean: ["true", "false", null],
  interval: INTERVALS,
  "timestamp with time zone": TIMES,
};

/** An element within the text of an array. */
const quoted = (value: string | null) =>
  value === null ? "NULL" : `"${value.replaceAll(/[\\"]/g, (one) => `\\${one}`)}"`;

/** A value of a type, as text; `valid` ids are mixed in. */
function valueOf(random: Random, type: string, ids: Ids): string | null {
  const element = /^(.*)\[\]$/.exec(type)?.[1];
  if (element !== undefined) {
    const pool = POOLS[element] ?? [];
    const some = (n: number) =>
      Array.from({ length: n }, () => quoted(valueOf(random, element, ids))).join();
    return random.pick([
      () => null,
      () => "{}",
      () => "{NULL}",
      () => `{${some(1)}}`,
      () => `{${some(1)}}`,
      () => `{${some(2)}}`,
      () => `{${some(3)}}`,
      () => `{{${some(2)}},{${some(2)}}}`,
      () => `[5:6]={${some(2)}}`,
      () => `{${Array.from({ length: 51 }, () => quoted(pool.at(4) ?? null)).join()}}`,
    ])();
  }
  const pool = POOLS[type];
  if (!pool) throw new Error(`no values of type ${type}`);
  if (type === "text" && random.below(4) === 0) return random.pick(random.pick(Object.values(ids)));
  const value = random.pick(pool);
  return isHuge(value) && random.below(4) > 0 ? valueOf(random, type, ids) : value;
}

/** What there is: the versions of all rows, and how many locks a session holds. */
async function digest(sql: Sql, pid: number): Promise<string> {
  const tables = await sql<{ name: string }[]>`
    select c.oid::regclass::text as name
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'p')
      and not c.relispartition
    union all values ('graphile_worker._private_jobs')
    order by 1`;
  const parts = tables.map(
    ({ name }) =>
      `select '${name}' as part, md5(string_agg(r.xmin::text || r.ctid::text, ' ' order by r.tableoid, r.ctid)) as sum from ${name} as r`,
  );
  const rows = await sql.unsafe(`
    ${parts.join(" union all ")}
    union all
    select 'locks', count(*)::text from pg_locks where locktype = 'advisory' and pid = ${pid}
    order by 1`);
  return JSON.stringify(rows);
}

void t.test("every function takes or refuses whatever it is given", async (t) => {
  const { sql, session } = await testDatabase(t);
  const random = randomFrom();
  t.comment(`SEED=${random.seed} CALLS=${CALLS}`);
  const text = await readFile(join(root, "docs/errors.md"), "utf8");
  const documented = new Set([...text.matchAll(/^## (WH\d{3})/gm)].map((match) => match[1] ?? ""));
  t.ok(documented.has("WH010"), [...documented].join());
  const isDocumented = (name: string, code: string) =>
    documented.has(code) ||
    // Only workers call it, and the constraints are sentences.
    (name === "webhookpub.record_attempts" && /^23(502|514)$/.test(code) && text.includes(code));
  const [server] = await sql<[{ version: number }]>`
    select current_setting('server_version_num')::integer as version`;
  if (server.version < 170_000) {
    // Before PostgreSQL 17 there are none without end: the cast refuses them.
    const finite = INTERVALS.filter((interval) => !interval?.includes("infinity"));
    INTERVALS.splice(0, INTERVALS.length, ...finite);
  }
  const functions = await publicFunctions(sql);
  t.ok(functions.length > 20, `${functions.length} functions`);

  const caller = session();
  const [{ pid }] = await caller<[{ pid: number }]>`select pg_backend_pid() as pid`;
  const outcomes = new Map<string, number>();
  const undocumented: string[] = [];
  const changed: string[] = [];
  for (const one of functions) {
    // A scene of its own: what came before may have deleted everything.
    for (const userId of ["user_1", "user_2"]) {
      const webhooks = [];
      for (let i = 0; i < 3; i++) {
        await sql`update webhookpub.settings set max_webhooks_per_user = 10000, publish_enabled = true`;
        webhooks.push(await createWebhook(sql, { userId, url: "https://receiver.example/" }));
      }
      await publish(sql, { userId, count: 2 });
      await sql`select webhookpub.fan_out()`;
      await sql`select from webhookpub.lease_deliveries(${webhooks.map(({ id }) => id)})`;
      await publish(sql, { userId });
      await sql`select webhookpub.disable_webhook(${webhooks[1]!.id})`;
      await sql`select webhookpub.delete_webhook(${webhooks[2]!.id})`;
    }
    const ids = await idsIn(sql);
    let before = await digest(sql, pid);
    for (let call = 0; call < CALLS; call++) {
      const role = random.pick(one.roles);
      const given = one.parameters.filter((p) => !p.has_default || random.below(3) > 0);
      // Most is in order: what refuses at the first argument says nothing about the others.
      const culprit = random.below(given.length);
      const values = given.map(({ name, type }, i) =>
        i === culprit || random.below(6) === 0
          ? valueOf(random, type, ids)
          : sensible(random, name, ids),
      );
      const args = given.map(({ name, type }, i) =>
        one.variadic ? `variadic $${i + 1}::text::${type}` : `${name} => $${i + 1}::text::${type}`,
      );
      const says = `${one.name}(${given.map(({ name }, i) => `${name} => ${values[i] === null ? "null" : `'${values[i]!.slice(0, 60)}'`}`).join(", ")}) as ${role}`;
      await caller.unsafe(`set role webhookpub_${role}`);
      const error = await caller
        .unsafe(`select * from ${one.name} (${args.join(", ")})`, values)
        .then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
      await caller.unsafe("reset role");
      if (error === undefined) {
        outcomes.set(`${one.name} ok`, (outcomes.get(`${one.name} ok`) ?? 0) + 1);
        await caller`select pg_advisory_unlock_all()`;
        before = await digest(sql, pid);
        continue;
      }
      if (!(error instanceof postgres.PostgresError)) throw error;
      const after = await digest(sql, pid);
      outcomes.set(
        `${one.name} ${error.code}`,
        (outcomes.get(`${one.name} ${error.code}`) ?? 0) + 1,
      );
      const neverRaises = /webhook_publish$|best_effort/.test(one.name);
      if (!isDocumented(one.name, error.code) || neverRaises)
        undocumented.push(
          `${error.code} ${error.message.slice(0, 200)} (${error.where?.split("\n")[0] ?? ""}): ${says}`,
        );
      else if (error.message.length > 1000)
        undocumented.push(`a message of ${error.message.length} characters: ${says}`);
      if (after !== before) changed.push(says);
      before = after;
    }
  }
  for (const [outcome, n] of [...outcomes].sort(([a], [b]) => a.localeCompare(b)))
    t.comment(`${outcome} ${n}`);
  t.strictSame(undocumented, [], "only errors of docs/errors.md");
  t.strictSame(changed, [], "nothing has changed after a refusal");
});
