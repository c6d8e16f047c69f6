// What a tenant sees: its own user's rows, through every table and view, and nothing else.
import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { createLogin, type Login } from "../support/login.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";

const database = await testDatabase(t);
const { sql } = database;

/** Two users, each with something in every table: pending, failed, waiting, refused. */
const events = await (async () => {
  const ids: Record<string, string[]> = {};
  for (const userId of ["user_1", "user_2"]) {
    await createWebhook(sql, { userId, events: "{*}" });
    ids[userId] = await publish(sql, { userId, count: 3 });
    await sql`select webhook_publish_best_effort_tx('no.such_type', ${userId}, '{}')`;
  }
  await sql`select webhookpub.fan_out(4)`;
  await sql`
    select webhookpub.record_attempts(
      array[l.delivery_id], array[l.attempt], array[l.started_at], array[7],
      array['responded'], array[500], array[null], array['oops'], array[null]
    )
    from webhookpub.lease_deliveries(array(select id from webhookpub.webhooks)) as l`;
  return { own: ids["user_1"] ?? [], foreign: ids["user_2"] ?? [] };
})();

/** A login role that is a tenant; bound to a user, or by the setting, or not at all. */
async function tenant(t: Test, userId?: string | null): Promise<Login> {
  const login = await createLogin(t, database, "webhookpub_tenant");
  if (userId !== undefined) {
    await sql`insert into webhookpub.tenants values (${login.role}, ${userId})`;
  }
  return login;
}

/** What a session sees of users: their ids in events. */
async function usersSeen(session: Sql): Promise<string[]> {
  const rows = await session<{ user_id: string }[]>`
    select distinct user_id from webhookpub.events order by user_id`;
  return rows.map((row) => row.user_id);
}

/** The tables and views that a role may read. */
async function readable(role: string) {
  return await sql<{ name: string; columns: string[] }[]>`
    select c.relname as name, array(
      select a.attname::text from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0
    ) as columns
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
      and has_table_privilege(${role}, c.oid, 'select')
    order by 1`;
}

/** Belongs to nobody. */
const SHARED = ["event_types"];
/** Behind functions, which are another privilege. */
const CALLS = ["jobs", "partitions", "sessions"];
/** Only numbers, over what the reader may see. */
const SUMS = ["backlog", "metrics"];

void t.test("a tenant sees its own rows and all of them, in every table and view", async (t) => {
  const { role, sql: session } = await tenant(t, "user_1");
  const relations = await readable(role);
  t.ok(relations.length > 8);
  for (const { name, columns } of relations) {
    if (SHARED.includes(name) || SUMS.includes(name)) continue;
    const all = await session`select * from webhookpub.${session(name)}`;
    if (name === "tenants") {
      t.strictSame([...all], [{ role_name: role, user_id: "user_1" }], name);
      continue;
    }
    const own = columns.includes("user_id")
      ? sql`r.user_id = 'user_1'`
      : sql`r.webhook_id in (select w.id from webhookpub.webhooks as w where w.user_id = 'user_1')`;
    const [rows] = await sql<[{ own: number; all: number }]>`
      select count(*) filter (where ${own})::integer as own, count(*)::integer as all
      from webhookpub.${sql(name)} as r`;
    t.ok(rows.own > 0 && rows.all > rows.own, `${name}: there are own and foreign rows`);
    t.equal(all.count, rows.own, name);
    if (columns.includes("user_id"))
      t.ok(
        all.every((row) => row["user_id"] === "user_1"),
        name,
      );
  }
});

void t.test("operators and readers see the rows of everybody", async (t) => {
  for (const group of ["webhookpub_operator", "webhookpub_readonly"]) {
    const { role, sql: session } = await createLogin(t, database, group);
    for (const { name } of await readable(role)) {
      const count = async (by: Sql) => (await by`select from webhookpub.${by(name)}`).count;
      // A session may begin or end between two looks.
      const isSame = async () => (await count(session)) === (await count(sql));
      if (name === "sessions") await until(isSame, `${group} to see all sessions`);
      else t.ok(await isSame(), `${group}: ${name}`);
    }
  }
});

void t.test("a bound role stays what it is, whatever it sets", async (t) => {
  const { sql: session } = await tenant(t, "user_1");
  const stays = async (what: string) => t.strictSame(await usersSeen(session), ["user_1"], what);
  await stays("at first");
  await session`set webhookpub.user_id = 'user_2'`;
  await stays("with the setting");
  await session`set role webhookpub_tenant`;
  await stays("as the group role");
  await session`reset role`;
  await session`set row_security = off`;
  await t.rejects(usersSeen(session), { code: "42501" }, "row security is not optional");
});

void t.test("the setting counts only for roles that are trusted with it", async (t) => {
  const portal = await tenant(t, null);
  t.strictSame(await usersSeen(portal.sql), [], "nobody, until it is set");
  await portal.sql.begin(async (tx) => {
    await tx`select set_config('webhookpub.user_id', 'user_2', true)`;
    t.strictSame(await usersSeen(tx as unknown as Sql), ["user_2"]);
  });
  t.strictSame(await usersSeen(portal.sql), [], "and nobody when the transaction is over");

  const stranger = await tenant(t);
  await stranger.sql`set webhookpub.user_id = 'user_2'`;
  t.strictSame(await usersSeen(stranger.sql), [], "one that is not in the table");
  await t.rejects(stranger.sql`insert into webhookpub.tenants values (current_user, 'user_2')`, {
    code: "42501",
  });

  // A pool that changes into the tenant's role.
  const bound = await tenant(t, "user_1");
  await sql.unsafe(`grant ${bound.role} to ${portal.role}`);
  await portal.sql`set webhookpub.user_id = 'user_2'`;
  await portal.sql`set role ${portal.sql(bound.role)}`;
  t.strictSame(await usersSeen(portal.sql), ["user_1"], "the role that it has changed into");
});

void t.test("foreign and absent ids give the same answer", async (t) => {
  const { sql: session } = await tenant(t, "user_1");
  const [own = "", foreign = ""] = [events.own[0], events.foreign[0]];
  t.equal((await session`select * from webhookpub.explain_event(${own})`).count, 1);
  const answer = async (id: string) =>
    await session`select * from webhookpub.explain_event(${id})`.then(
      () => undefined,
      (error: { code: string; message: string; hint: string; detail?: string }) => ({
        code: error.code,
        message: error.message.replace(id, "X"),
        hint: error.hint,
        detail: error.detail,
      }),
    );
  const absent = await answer("evt_0123456789abcdef0123456789abcdef");
  t.match(absent, { code: "WH020", message: /X/ });
  t.strictSame(await answer(foreign), absent);
  const stored = await sql<{ event_id: string; created_at: string }[]>`
    select event_id, created_at from webhookpub.envelopes`;
  const seen = await Promise.all(
    stored.map(
      async ({ event_id, created_at }) =>
        (
          await session<[{ body: string | null }]>`
            select webhookpub.stored_envelope(${event_id}, ${created_at}::timestamptz) as body`
        )[0].body !== null && event_id,
    ),
  );
  t.ok(seen.includes(false), "the envelopes of others are not there");
  t.ok(seen.every((id) => id === false || events.own.includes(id)));
});

void t.test("a function of the tenant's own is not shown what others have", async (t) => {
  const { sql: session } = await tenant(t, "user_1");
  // Cheap, so that the planner would like to ask it first; it tells what it is asked.
  await session`
    create function pg_temp.peek(p text) returns boolean language plpgsql cost 0.0000001
    as $$ begin perform 1 / (p like 'user_1%')::integer; return true; end; $$`;
  t.equal((await session`select from webhookpub.events where pg_temp.peek(user_id)`).count, 3);
  t.equal((await session`select from webhookpub.webhooks where pg_temp.peek(user_id)`).count, 1);
  const { sql: reader } = await createLogin(t, database, "webhookpub_readonly");
  await reader`
    create function pg_temp.peek(p text) returns boolean language plpgsql cost 0.0000001
    as $$ begin perform 1 / (p like 'user_1%')::integer; return true; end; $$`;
  await t.rejects(
    reader`select from webhookpub.events where pg_temp.peek(user_id)`,
    { code: "22012" },
    "it would have told",
  );
});

void t.test("what is granted by mistake opens neither secrets nor others' rows", async (t) => {
  const { role, sql: session } = await createLogin(t, database);
  await sql.unsafe(`grant usage on schema webhookpub to ${role}`);
  await sql.unsafe(
    `alter default privileges in schema webhookpub grant select on tables to ${role}`,
  );
  await sql.unsafe(`grant select on all tables in schema webhookpub to ${role}`);
  await sql.unsafe(`grant execute on function webhookpub.current_user_id to ${role}`);
  const [{ made }] = await sql<[{ made: number }]>`
    select webhookpub.create_partitions('webhookpub.envelopes', 20)::integer as made`;
  t.ok(made > 0, "and partitions that are made later");
  const relations = await readable(role);
  t.ok(relations.length > 40);
  for (const { name } of relations) {
    if ([...SHARED, ...SUMS, "settings", "upkeep"].includes(name)) continue;
    if (CALLS.includes(name)) {
      await t.rejects(session`select from webhookpub.${session(name)}`, { code: "42501" }, name);
      continue;
    }
    t.equal((await session`select from webhookpub.${session(name)}`).count, 0, name);
  }
  await sql.unsafe(
    `alter default privileges in schema webhookpub revoke select on tables from ${role}`,
  );
});
