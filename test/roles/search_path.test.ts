// What somebody with few rights plants in the way of functions that run as their owner.
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { plantTrap } from "../support/hijack.ts";
import { createLogin } from "../support/login.ts";

const database = await testDatabase(t);
const { sql } = database;

const definers = await sql<{ name: string; signature: string; path: string }[]>`
  select p.proname as name, p.oid::regprocedure::text as signature,
    (
      select substring(s.setting from '^search_path=(.*)') from unnest(p.proconfig) as s (setting)
      where s.setting like 'search_path=%'
    ) as path
  from pg_proc as p
  where p.prosecdef
    and (p.pronamespace = 'webhookpub'::regnamespace
      or (p.pronamespace = 'public'::regnamespace and p.proname like 'webhook\\_%'))
  order by 1`;

/** Nothing in it is looked up by a bare name, pinned or not. */
const IMMUNE = ["diagnose", "read_jobs", "read_metrics", "tg_event_types__copy_names"];

/**
 * One life of a webhook and its events, through every security definer function: whose
 * function is tried, and what is called. $webhook, $delivery, $event stand for what is there.
 */
const LIFE: readonly (readonly [name: string, statement: string])[] = [
  ["tg_event_types__copy_names", "insert into webhookpub.event_types (name) values ('a.b')"],
  ["register_event_types", `select webhookpub.register_event_types('[{"name": "a.b"}]')`],
  ["is_valid_event_type", "select webhookpub.is_valid_event_type('a.b')"],
  [
    "create_webhook",
    `select webhookpub.create_webhook('user_1', 'https://a.example/', '{*}',
      '{"labels": ["vip"], "data": "$.a == 1"}', p_headers => '{"x-key": "k"}')`,
  ],
  [
    "update_webhook",
    `select webhookpub.update_webhook('$webhook', 'https://192.88.98.1/', p_retry_schedule => '{1 s}')`,
  ],
  [
    "webhook_publish_tx",
    `select webhook_publish_tx('a.b', 'user_1', '{"a": 1}', labels => '{vip}', message_id => 'm')`,
  ],
  ["webhook_publish_tx", "select webhook_publish_tx('a.b', 'user_1', '{}', event_id => 'evt_1')"],
  [
    "webhook_publish_best_effort_tx",
    "select webhook_publish_best_effort_tx('a.c', 'user_1', '{}')",
  ],
  ["webhook_publish", `select webhook_publish('a.b', 'user_1', '{"a": 1}', labels => '{vip}')`],
  ["read_metrics", "select webhookpub.read_metrics()"],
  ["webhook_waits", "select webhookpub.webhook_waits('$webhook')"],
  ["read_jobs", "select webhookpub.read_jobs()"],
  ["read_partitions", "select webhookpub.read_partitions()"],
  ["read_sessions", "select webhookpub.read_sessions()"],
  ["wake", "select webhookpub.wake()"],
  ["fan_out", "select webhookpub.fan_out()"],
  ["fan_out_batch", "select webhookpub.fan_out_batch()"],
  ["lease_deliveries", "select webhookpub.lease_deliveries(array['$webhook'], '{1}')"],
  ["lease_requests", "select webhookpub.lease_requests(array['$delivery'])"],
  ["release_deliveries", "select webhookpub.release_deliveries('{$delivery}', '{0}', '{none}')"],
  [
    "record_attempts",
    `select webhookpub.record_attempts('{$delivery}', '{1}', array[pg_catalog.now()], '{7}', '{responded}',
      '{503}', '{null}', '{oops}', '{1}')`,
  ],
  ["disable_webhook", "select webhookpub.disable_webhook('$webhook')"],
  ["enable_webhook", "select webhookpub.enable_webhook('$webhook')"],
  ["rotate_secret", "select webhookpub.rotate_secret('$webhook')"],
  ["test_webhook", "select webhookpub.test_webhook('$webhook')"],
  ["skip", "select webhookpub.skip((select delivery_id from webhookpub.queue limit 1))"],
  ["redeliver", "select webhookpub.redeliver('$event')"],
  ["redeliver_since", "select webhookpub.redeliver_since('$webhook', '-infinity', 'infinity')"],
  ["retry_publish_failures", "select webhookpub.retry_publish_failures()"],
  ["delete_webhook", "select webhookpub.delete_webhook('$webhook')"],
  ["maintain", "select webhookpub.maintain()"],
  ["check_privileges", "select * from webhookpub.check_privileges()"],
  ["diagnose", "select * from webhookpub.diagnose()"],
  ["last_migration", "select webhookpub.last_migration()"],
];

const attacker = await createLogin(
  t,
  database,
  "webhookpub_publisher",
  "webhookpub_worker",
  "webhookpub_operator",
);
await sql.unsafe(`create schema trap authorization ${attacker.role}`);
const trap = await plantTrap(attacker.sql, "trap");
await trap.enter(attacker.sql);
const sprung = () => trap.sprung(sql);

/** Runs a statement; an error is its outcome. */
async function run(session: Sql, statement: string, undo = false): Promise<string> {
  const [ids] = await sql<[Record<string, string>]>`
    select
      (select id from webhookpub.webhooks limit 1) as webhook,
      (select id from webhookpub.deliveries where leased limit 1) as delivery,
      (select event_id from webhookpub.deliveries where replay_id is null limit 1) as event`;
  const text = statement.replaceAll(/\$(\w+)/g, (_, name: string) => ids[name] ?? "none");
  let outcome = "done";
  await session
    .begin(async (tx) => {
      await tx.unsafe(text);
      if (undo) throw new Error("undone");
    })
    .catch((error: Error) => {
      outcome = error.message;
    });
  return outcome;
}

void t.test(
  "planted names are found by unpinned functions, and by none that is pinned",
  async (t) => {
    t.strictSame(
      [...new Set(LIFE.map(([name]) => name))].toSorted(),
      definers.map(({ name }) => name),
      "every security definer function is tried; add a new one to LIFE",
    );
    // PL/pgSQL keeps for the session what a function's declarations once meant: first, whatever
    // the attacker may call is called where they mean something else.
    const callable = await sql<{ call: string }[]>`
    select format('select %s(%s)', p.oid::regproc, (
      select string_agg(
        format('null::%s.%I', t.typnamespace::regnamespace, t.typname), ', ' order by a.n
      )
      from unnest(p.proargtypes) with ordinality as a (type, n)
      join pg_type as t on t.oid = a.type
    )) as call
    from pg_proc as p
    where p.pronamespace in ('webhookpub'::regnamespace, 'graphile_worker'::regnamespace)
      and has_function_privilege(${attacker.role}, p.oid, 'execute')`;
    t.ok(callable.length > 30, `${callable.length} of them`);
    for (const { call } of callable) await run(attacker.sql, call, true);

    for (const [name, statement] of LIFE) {
      const one = definers.find((definer) => definer.name === name);
      if (!one) continue;
      await sql.unsafe(`alter function ${one.signature} reset search_path`);
      const session = database.as(attacker.role);
      await trap.enter(session);
      await sprung();
      const unpinned = await run(session, statement, true);
      t.equal(await sprung(), !IMMUNE.includes(name), `${name}, unpinned: ${unpinned}`);
      await session.end();
      await sql.unsafe(`alter function ${one.signature} set search_path = ${one.path}`);

      t.equal(await run(attacker.sql, statement), "done", name);
      t.notOk(await sprung(), `${name}, as it is`);
    }
  },
);

void t.test("and what they did is what they do in a clean session", async (t) => {
  t.strictSame(
    [...(await sql`select type, status, message_id from webhookpub.events order by created_at`)],
    [
      { type: "a.b", status: "processed", message_id: "m" },
      { type: "a.b", status: "no_match", message_id: null },
      { type: "a.b", status: "processed", message_id: null },
    ],
  );
  const deliveries = await sql`
    select status, attempts, last_status_code from webhookpub.deliveries
    order by attempts desc`;
  t.strictSame(
    [...deliveries],
    [
      { status: "cancelled", attempts: 1, last_status_code: 503 },
      ...Array<object>(3).fill({ status: "cancelled", attempts: 0, last_status_code: null }),
    ],
  );
});

void t.test("a path that leaves pg_temp out is not enough", async (t) => {
  const maintain = async () => {
    await run(attacker.sql, "select webhookpub.maintain()", true);
    return await sprung();
  };
  t.notOk(await maintain());
  await sql`alter function webhookpub.partitions_of set search_path = pg_catalog`;
  t.ok(await maintain(), "a temporary pg_class");
  await sql`alter function webhookpub.partitions_of set search_path = pg_catalog, pg_temp`;
  t.notOk(await maintain());
});
