import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { randomFrom } from "../support/random.ts";
import { refused } from "../support/refused.ts";
import { createWebhookWith } from "../support/webhook.ts";

/** What a filter by data may be, and what it may not, because it never matches or takes too long. */
const FINE = [
  "$.amount > 100",
  'exists($.items[*] ? (@.sku == "x"))',
  'exists($.items[*] ? (@.sku == "x" && @.price * 1.19 > 100))',
  '$.items[*] ? (@.sku == "x").price > 100',
  '$.to[*] like_regex "@example\\\\.(com|org)$" flag "i" && !exists($.cc)',
  '$.day like_regex "^\\\\d{4}-\\\\d{2}-\\\\d{2}$"',
  "$.total - $.paid > 0",
  "$.total > $.paid + 100",
  "strict $.total > $.paid",
  '$.** == "needle"',
  "exists($.** ? (@.amount > 100))",
  'exists($.orders[*] ? (exists(@.items[*] ? (@.sku starts with "x"))))',
  "$.tags[0] == 1 || $.tags[last] == 1 || $.tags.size() > 5",
  "($.amount > 100) is unknown",
  '$.at.datetime() > "2024-01-01".datetime()',
  '$."like_regex (\\"" == "$.**.**"',
];
const REFUSED: readonly (readonly [string, string])[] = [
  ["$.amount", "predicate"],
  ['$.items[*] ? (@.sku == "x")', "predicate"],
  ["$.amount + 1", "predicate"],
  ['"true"', "predicate"],
  ["$limit > 100", "variables"],
  ["$.**.**.**.**.**.**.** == 2", "**"],
  ['exists($.** ? (exists($.** ? (exists($.** ? (@ == "x"))))))', "**"],
  ["exists($.a[*] ? (exists($.a[*] ? (exists($.a[*] ? (@ == 3))))))", "? (…)"],
  ["exists($.a[*] ? (@ == $.a))", "constant"],
  ["exists($.a[*] ? (@ > $.a - $.b))", "? (…)"],
  ["$.a == $.b", "constant"],
  ["$.a[*] == $.a[*]", "constant"],
  ["strict $.a[*] == $.a[*]", "constant"],
  ["$.n * $.n > 1", "multiply"],
  ["($.n - 1) % ($.n - 2) > 1", "multiply"],
  [`$${"[0,0,0,0]".repeat(20)} == 1`, "[ ]"],
  ["$.a[$.b] == 1", "[ ]"],
  [`$.a${".keyvalue()".repeat(20)} == 1`, "keyvalue"],
  [`$.**${"[*]".repeat(50)} == 1`, "ten times"],
  [`$${".a".repeat(70)} == 1`, "60"],
  [`$.a == ${"9".repeat(41)}`, "40"],
  ['$.a like_regex "(a|b)\\\\1"', "back references"],
  ['$.a like_regex "(?=b)c"', "looking around"],
  ['$.a like_regex "(a{50}){50}"', "group"],
  ['$.a like_regex "a{60}b{60}"', "100"],
  [`$.a like_regex "${"a".repeat(101)}"`, "100"],
];

/** Data of the most bytes that an event may have, of forms that make matching dear. */
const WORST = {
  "a list of numbers": `jsonb_build_object('a', (select jsonb_agg(n % 7) from generate_series(1, 80000) n))`,
  "two lists": `jsonb_build_object('a', (select jsonb_agg(1) from generate_series(1, 40000)),
    'b', (select jsonb_agg(2) from generate_series(1, 40000)))`,
  "a list of texts": `jsonb_build_object('a', (select jsonb_agg('ab'::text) from generate_series(1, 40000)))`,
  "many keys": `(select jsonb_object_agg('k' || n, n) from generate_series(1, 16000) n)`,
  "a list of objects": `jsonb_build_object('a', (
    select jsonb_agg('{"a": 1, "b": [2, 3]}'::jsonb) from generate_series(1, 11000)))`,
  "lists 60 deep": `jsonb_build_object('a', (
    select jsonb_agg((repeat('[', 60) || repeat('1, ', 10) || '1' || repeat(']', 60))::jsonb)
    from generate_series(1, 1600)))`,
  "objects 1,000 deep": `(
    select (repeat('{"a": [', 1000) || '1' || repeat(', 1]}', 1000))::jsonb)`,
  "long text": `jsonb_build_object('a', (
    select string_agg(chr(97 + (n::bigint * n / 3 % 2)::integer), '') from generate_series(1, 250000) n))`,
  "long numbers": `jsonb_build_object('a', repeat('7', 120000)::numeric, 'b', repeat('3', 110000)::numeric)`,
};

const random = randomFrom();
t.comment(`SEED=${random.seed}`);
const { below, pick } = random;

function path(root: string, depth: number): string {
  const steps = Array.from({ length: below(5) }, () => step(depth));
  return root + steps.join("");
}
function step(depth: number): string {
  return pick([
    ...[".a", ".b", "[*]", ".*", ".**", "[0]", "[last]", "[0 to last]", ".type()", ".size()"],
    ...["[0, last]", ".keyvalue()", ".double()"],
    ...(depth > 0
      ? [` ? (${predicate("@", depth - 1)})`, ` ? (${predicate("@", depth - 1)})`]
      : []),
  ]);
}
function value(root: string, depth: number): string {
  const from = () => path(below(10) === 0 ? "$" : root, depth);
  return pick<() => string>([
    from,
    from,
    () => pick(["1", '"ab"', "null", "true", "-3.5"]),
    () => `(${from()} ${pick(["+", "-", "*", "/", "%"])} ${pick([from(), "2"])})`,
  ])();
}
function predicate(root: string, depth: number): string {
  const deeper = () => predicate(root, depth - 1);
  const simple = [
    () => `${value(root, depth)} ${pick(["==", "!=", "<", ">="])} ${value(root, depth)}`,
    () => `${value(root, depth)} == 9`,
    () => `exists(${path(root, depth)})`,
    () => `${path(root, depth)} like_regex "${pick(["^a.*c$", "(a|b)*a.{99}c", "(a+)+c"])}"`,
  ];
  const nested = [
    () => `(${deeper()}) ${pick(["&&", "||"])} (${deeper()})`,
    () => `!(${deeper()})`,
    () => `((${deeper()}) is unknown)`,
  ];
  return pick(depth > 0 ? [...simple, ...nested] : simple)();
}

async function faultOf(sql: Sql, predicate: string): Promise<string | null> {
  const [row] = await sql<[{ fault: string | null }]>`
    select webhookpub.predicate_fault(${predicate}::text::jsonpath) as fault`;
  return row.fault;
}

/**
 * A predicate that is dear takes minutes, and one that is not some milliseconds; the limit is
 * between them, on a slow machine, too.
 */
async function staysCheap(t: Test, sql: Sql, predicate: string): Promise<void> {
  await sql`set statement_timeout = '30s'`;
  for (const name of Object.keys(WORST)) {
    await sql`
      select webhookpub.data_holds(w.data, ${predicate}::text::jsonpath, null) from worst as w where name = ${name}`.then(
      () => {},
      (error: Error) => t.fail(`${predicate} of ${name}: ${error.message}`),
    );
  }
  await sql`reset statement_timeout`;
}

async function worstData(sql: Sql): Promise<void> {
  await sql`create temp table worst (name text, data jsonb)`;
  for (const [name, data] of Object.entries(WORST)) {
    await sql.unsafe(`insert into worst select '${name}', ${data}`);
  }
  const wrong = await sql`
    select name, length(data::text) from worst
    where length(data::text) not between 8000 and 262144`;
  if (wrong.count > 0) throw new Error(`data of no size for an event: ${JSON.stringify(wrong)}`);
}

void t.test("a filter by data is a predicate, and one that can't take long", async (t) => {
  const { sql } = await testDatabase(t);
  for (const data of FINE) {
    await t.resolves(createWebhookWith(sql, { p_filters: { data }, p_user_id: data }), data);
  }
  for (const [data, says] of REFUSED) {
    const create = createWebhookWith(sql, { p_filters: { data } });
    await refused(t, create, { code: "WH010", says }, data);
  }
  const { id } = await createWebhookWith(sql);
  const update = sql`select webhookpub.update_webhook(${id}, p_filters => '{"data": "$.a"}')`;
  await refused(t, update, { code: "WH010", says: "predicate" }, "update_webhook");
});

void t.test("what is accepted is matched in a moment, whatever the data is", async (t) => {
  const { session } = await testDatabase(t);
  const sql = session();
  await worstData(sql);
  for (const one of FINE) await staysCheap(t, sql, one);

  let accepted = 0;
  let refusals = 0;
  while (accepted < 150) {
    const one = predicate("$", 3);
    const fault = await faultOf(sql, one).catch((error: Error) => error.message);
    if (fault === null) {
      accepted += 1;
      await staysCheap(t, sql, one);
    } else refusals += 1;
  }
  t.comment(`${accepted} accepted, ${refusals} refused`);
  t.ok(refusals > 10, "some were refused");
});
