import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { createLogin } from "../support/login.ts";
import { refused } from "../support/refused.ts";

/** What has been published, oldest first. */
async function published(sql: Sql) {
  const events = await sql<{ type: string; user_id: string; data: unknown }[]>`
    select e.type, e.user_id, e.message_id, e.ordering_key, e.envelope::jsonb -> 'data' as data
    from webhookpub.events as e order by e.created_at`;
  return [...events];
}

const TRIGGER = (args: string, when = "after insert or update or delete", each = "row") =>
  `create trigger publish ${when} on things for each ${each}
   execute function webhookpub.publish_row(${args})`;

void t.test("publish_row publishes what happens to a row, and only what it may", async (t) => {
  const { sql } = await testDatabase(t);
  await sql`
    create table things (
      id bigint primary key, "Owner's" text, name text, price numeric, secret text)`;
  await sql.unsafe(TRIGGER(`'email.sent', 'Owner''s', 'id', 'name', 'price'`));
  await sql`insert into things values (7, 'user_1', 'a', 1.5, 'hidden')`;
  await sql`update things set secret = 'other'`;
  await sql`update things set name = name, price = 1.50`;
  await sql`update things set name = 'b', secret = 'x'`;
  await sql`update things set name = null, price = 2`;
  await sql`delete from things`;
  const of = (object: object, previous?: object) => ({
    type: "email.sent",
    user_id: "user_1",
    message_id: "7",
    ordering_key: "7",
    data: previous ? { object, previous } : { object },
  });
  t.strictSame(await published(sql), [
    of({ name: "a", price: 1.5 }),
    of({ name: "b", price: 1.5 }, { name: "a" }),
    of({ name: null, price: 2 }, { name: "b", price: 1.5 }),
    of({ name: null, price: 2 }),
  ]);
});

void t.test("what publish_row says does not depend on settings", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  await sql`
    create table things (
      id text primary key, owner text, at timestamptz, during tstzrange, took interval, price float8,
      cost money, bytes bytea, of regclass)`;
  await sql.unsafe(TRIGGER(`'email.sent', 'owner'`));
  const session = database.session();
  const insert = async () => {
    await session`delete from things`;
    await session`
      insert into things values (
        'x', 'user_1', '2026-01-31T12:00:00Z', '[2026-01-31T12:00:00Z,)', '1 day 02:03:04', 0.1::float8 + 0.2::float8,
        12.5::numeric::money, '\\x00ff', 'things')`;
  };
  await insert();
  for (const [name, value] of Object.entries({
    datestyle: "German",
    timezone: "Pacific/Kiritimati",
    intervalstyle: "sql_standard",
    extra_float_digits: "-15",
    bytea_output: "escape",
    quote_all_identifiers: "on",
  })) {
    await session`select set_config(${name}, ${value}, false)`;
  }
  await insert();
  const [first, ...others] = (await published(sql)).map(({ data }) => data);
  t.strictSame(first, {
    object: {
      id: "x",
      owner: "user_1",
      at: "2026-01-31T12:00:00+00:00",
      during: '["2026-01-31 12:00:00+00",)',
      took: "P1DT2H3M4S",
      price: 0.30000000000000004,
      cost: "$12.50",
      bytes: "\\x00ff",
      of: "public.things",
    },
  });
  t.equal(others.length, 2);
  t.ok(
    others.every((other) => JSON.stringify(other) === JSON.stringify(first)),
    "each is the same",
    { others },
  );
});

void t.test(
  "publish_row publishes each change once, also of one row in one statement's time",
  async (t) => {
    const { sql } = await testDatabase(t);
    await sql`create table things (id text primary key, owner text, n integer)`;
    await sql.unsafe(TRIGGER(`'email.sent', 'owner', 'id'`));
    await sql.begin(async (tx) => {
      await tx`insert into things values ('x', 'user_1', 1)`;
      for (const n of [2, 1, 2]) await tx`update things set n = ${n}`;
      await tx`delete from things`;
      await tx`insert into things values ('x', 'user_1', 1)`;
    });
    t.equal((await published(sql)).length, 6);
    await sql
      .begin(async (tx) => {
        await tx`update things set n = 5`;
        throw new Error("undo");
      })
      .catch(() => {});
    await sql`insert into things values ('x', 'user_1', 1) on conflict do nothing`;
    await sql`update things set n = 1`;
    t.equal((await published(sql)).length, 6, "what changes nothing publishes nothing");
  },
);

void t.test("publish_row takes ids of any type, and partitions", async (t) => {
  const { sql } = await testDatabase(t);
  const uuid = "6f8b1b0e-0a0a-4c4c-8d8d-000000000001";
  await sql`create table things (id uuid, owner integer, body text, day date) partition by list (day)`;
  await sql`create table things_1 partition of things for values in ('2026-01-01')`;
  await sql`create table things_2 partition of things default`;
  await sql.unsafe(TRIGGER(`'email.sent', 'owner', 'id', 'body'`));
  await sql`insert into things values (${uuid}, 5, 'a', '2026-01-01'), (${uuid}, 6, 'b', null)`;
  await sql`update things set body = body || '!'`;
  const events = await published(sql);
  t.equal(events.length, 4);
  t.match(events[0], { user_id: "5", message_id: uuid, data: { object: { body: "a" } } });
  t.match(events[3], { user_id: "6", data: { object: { body: "b!" }, previous: { body: "b" } } });
});

void t.test(
  "without a column for the row, or for the payload, all goes and nothing orders",
  async (t) => {
    const { sql } = await testDatabase(t);
    await sql`create table things (owner text, body text)`;
    await sql.unsafe(TRIGGER(`'email.sent', 'owner'`));
    await sql`insert into things values ('user_1', 'a')`;
    t.match(await published(sql), [
      {
        message_id: null,
        ordering_key: null,
        data: { object: { owner: "user_1", body: "a" } },
      },
    ]);
  },
);

void t.test("an error of publish_row names the trigger, the table and the column", async (t) => {
  const { sql } = await testDatabase(t);
  await sql`create table things (id integer, owner text)`;
  for (const [trigger, says] of [
    [TRIGGER("'email.sent', 'nobody'"), /trigger publish on public.things: .*column nobody/],
    [TRIGGER("'email.sent', 'owner', 'key'"), /trigger publish on public.things: .*column key/],
    [
      TRIGGER("'email.sent', 'owner', 'id', 'id', 'nmae'"),
      /trigger publish on public.things: .*column nmae/,
    ],
    [TRIGGER("'email.sent'"), /trigger publish on public.things: .*user's id/],
    [TRIGGER(""), /trigger publish on public.things: .*event type/],
    [
      TRIGGER("'email.sent', 'owner'", "before insert"),
      /trigger publish on public.things: .*AFTER/,
    ],
    [
      TRIGGER("'email.sent', 'owner'", "after insert", "statement"),
      /publish on public.things: .*ROW/,
    ],
  ] as const) {
    await sql.unsafe(trigger);
    await refused(t, sql`insert into things values (1, 'user_1')`, { code: "WH007", says });
    await sql`drop trigger publish on things`;
  }
  await sql.unsafe(TRIGGER("'email.sent', 'owner'"));
  await refused(t, sql`insert into things values (1, null)`, { code: "WH007", says: "owner" });
  await sql`drop trigger publish on things`;
  await sql.unsafe(TRIGGER("'no.such', 'owner'"));
  await refused(t, sql`insert into things values (1, 'user_1')`, {
    code: "WH002",
    says: "no.such",
  });
  t.equal((await sql`select from things`).count, 0);
});

void t.test("a plain application role changes rows; what it may not call is refused", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  const app = await createLogin(t, database);
  await sql`create table things (id integer, owner text)`;
  await sql.unsafe(TRIGGER("'email.sent', 'owner', 'id'"));
  await sql.unsafe(`grant select, insert, update, delete on things to ${app.role}`);
  await t.rejects(app.sql`insert into things values (1, 'user_1')`, { code: "42501" });
  await sql.unsafe(`grant execute on function webhook_publish_tx to ${app.role}`);
  await app.sql`insert into things values (1, 'user_1')`;
  await app.sql`update things set id = 2`;
  t.equal((await published(sql)).length, 2);
});
