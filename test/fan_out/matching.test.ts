import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import type { Arguments } from "../support/named.ts";
import { publishBy } from "../support/publish.ts";
import { refused } from "../support/refused.ts";
import { createWebhookWith } from "../support/webhook.ts";

/** One webhook and one event of the same user. */
interface Case {
  readonly name: string;
  /** Of the webhook; default: every type. */
  readonly events?: string;
  readonly filters?: object;
  /** Arguments of publishing; default: an email.sent without any value. */
  readonly event?: Arguments;
  /** The clause that keeps them apart; null: they match. */
  readonly unmatched: string | null;
}

const HOST_TYPES = [
  "email.sent.bounced",
  "email.sent.bounced.hard",
  "emails.sent",
  "email_x.sent",
  "order.paid",
];

// The clauses -------------------------------------------------------------------------

const EVENTS: readonly Case[] = [
  ["{email.sent}", "email.sent", true],
  ["{email.sent}", "email.received", false],
  ["{email.sent}", "email.sent.bounced", false],
  ["{email.received,email.sent}", "email.sent", true],
  ["{email.received,order.*}", "email.sent", false],
  ["{order.*,email.*}", "email.sent", true],
  ["{email.*}", "email.sent", true],
  ["{email.*}", "email.sent.bounced", true],
  ["{email.*}", "email.sent.bounced.hard", true],
  ["{email.*}", "emails.sent", false],
  ["{email.*}", "email_x.sent", false],
  ["{email.*}", "order.paid", false],
  ["{email.sent.*}", "email.sent.bounced", true],
  ["{email.sent.*}", "email.sent.bounced.hard", true],
  ["{email.sent.*}", "email.sent", false],
  ["{email.sent.*}", "email.received", false],
  ["{*}", "email.sent", true],
  ["{*}", "email.sent.bounced.hard", true],
  ["{*}", "webhook.disabled", true],
  ["{order.paid,*}", "email.sent", true],
].map(([events, type, matches]) => ({
  name: `${String(events)} and ${String(type)}`,
  events: String(events),
  event: { event_type: type },
  unmatched: matches === true ? null : "events",
}));

/** Clauses whose event has one value; and the parameter that gives it. */
const SINGLE_VALUED: readonly Case[] = [
  { clause: "agent_ids", parameter: "agent_id" },
  { clause: "conversation_ids", parameter: "conversation_id" },
].flatMap(({ clause, parameter }) =>
  (
    [
      ["absent", undefined, "a", true],
      ["absent", undefined, null, true],
      ["null", null, "a", true],
      ["null", null, null, true],
      ["empty", [], "a", true],
      ["empty", [], null, true],
      ["one entry", ["a"], "a", true],
      ["one entry", ["a"], "b", false],
      ["one entry", ["a"], "A", false],
      ["one entry", ["a"], "", false],
      ["one entry", ["a"], null, false],
      ["one entry", ["a"], undefined, false],
      ["two entries", ["a", "b"], "b", true],
      ["two entries", ["a", "b"], "c", false],
      ["quotes and commas", ['a,"b"', "{c}"], "{c}", true],
      ["quotes and commas", ['a,"b"', "{c}"], "c", false],
      ["the word null", ["null"], "null", true],
      ["the word null", ["null"], null, false],
    ] as const
  ).map(([name, list, value, matches]) => ({
    name: `${clause}: ${name}, event has ${value === undefined ? "none" : JSON.stringify(value)}`,
    filters: list === undefined ? {} : { [clause]: list },
    event: { [parameter]: value },
    unmatched: matches ? null : clause,
  })),
);

const LABELS: readonly Case[] = (
  [
    ["absent", undefined, ["a"], true],
    ["absent", undefined, undefined, true],
    ["null", null, ["a"], true],
    ["null", null, [], true],
    ["empty", [], ["a"], true],
    ["empty", [], null, true],
    ["one entry", ["a"], ["a"], true],
    ["one entry", ["a"], ["b", "a"], true],
    ["one entry", ["a"], ["b"], false],
    ["one entry", ["a"], ["A"], false],
    ["one entry", ["a"], [], false],
    ["one entry", ["a"], null, false],
    ["one entry", ["a"], undefined, false],
    ["one entry", ["a"], [null], false],
    ["one in common", ["a", "b"], ["b", "c"], true],
    ["none in common", ["a", "b"], ["c", "d"], false],
  ] as const
).map(([name, list, value, matches]) => ({
  name: `labels: ${name}, event has ${value === undefined ? "none" : JSON.stringify(value)}`,
  filters: list === undefined ? {} : { labels: list },
  event: { labels: value },
  unmatched: matches ? null : "labels",
}));

const DATA: readonly Case[] = (
  [
    [undefined, {}, true],
    [null, {}, true],
    ["$.amount > 100", { amount: 150 }, true],
    ["$.amount > 100", { amount: 100 }, false],
    ["$.amount > 100", { amount: "150" }, false],
    ["$.amount > 100", { amount: null }, false],
    ["$.amount > 100", { amount: [50, 150] }, true],
    ["$.amount > 100", { total: 150 }, false],
    ["$.amount > 100", {}, false],
    ['$.to == "a@b.example"', { to: "a@b.example" }, true],
    ['$.to starts with "a@"', { to: "b@b.example" }, false],
    ['$.subject like_regex "^re:" flag "i"', { subject: "Re: hello" }, true],
    ['$.items[*].sku == "x"', { items: [{ sku: "y" }, { sku: "x" }] }, true],
    ['$.items[*].sku == "x"', { items: [] }, false],
    ["exists($.cc)", { cc: [] }, true],
    ["exists($.cc)", {}, false],
    ["!exists($.cc)", {}, true],
    ["$.cc == null", { cc: null }, true],
    ["$.a > 1 && $.b > 1", { a: 2, b: 2 }, true],
    ["$.a > 1 && $.b > 1", { a: 2 }, false],
    ["$.a > 1 || $.b > 1", { a: 2 }, true],
    ["($.a > 1) is unknown", { a: "x" }, true],
    // Errors inside the path.
    ["strict $.a.b > 1", { a: {} }, false],
    ["$.a / 0 > 1", { a: 1 }, false],
    ["$.a.double() > 1", { a: "x" }, false],
    ["$.a[99999999999] > 1", { a: [1] }, false],
    ['$.a.datetime() > "2024-01-01".datetime()', { a: "no date" }, false],
    // PostgreSQL raises these even where it is told to be silent.
    ['$.at.datetime() > "2024-01-01".datetime()', { at: "2023-05-01T00:00:00+00:00" }, false],
  ] as const
).map(([path, data, matches]) => ({
  name: `data: ${path} of ${JSON.stringify(data)}`,
  filters: path === undefined ? {} : { data: path },
  event: { data },
  unmatched: matches ? null : "data",
}));

const EVERYTHING = {
  agent_ids: ["agent_1", "agent_2"],
  conversation_ids: ["conv_1"],
  labels: ["vip", "eu"],
  data: "$.amount > 100",
};
const FITTING = {
  agent_id: "agent_1",
  conversation_id: "conv_1",
  labels: ["eu"],
  data: { amount: 101 },
};

const ALL_CLAUSES: readonly Case[] = [
  { name: "all hold", unmatched: null },
  { name: "all but events", event: { event_type: "order.paid" }, unmatched: "events" },
  { name: "all but agent_ids", event: { agent_id: "agent_3" }, unmatched: "agent_ids" },
  {
    name: "all but conversation_ids",
    event: { conversation_id: "conv_2" },
    unmatched: "conversation_ids",
  },
  { name: "all but labels", event: { labels: ["us"] }, unmatched: "labels" },
  { name: "all but data", event: { data: { amount: 100 } }, unmatched: "data" },
].map((one) => ({
  ...one,
  name: `every clause: ${one.name}`,
  events: "{email.*}",
  filters: EVERYTHING,
  event: { ...FITTING, ...one.event },
}));

const CASES = [...EVENTS, ...SINGLE_VALUED, ...LABELS, ...DATA, ...ALL_CLAUSES];

// ------------------------------------------------------------------------------------

interface Explanation {
  readonly webhook_id: string;
  readonly matched: boolean;
  readonly reason: string;
}

async function explain(sql: Sql, eventId: string): Promise<Explanation[]> {
  return [...(await sql<Explanation[]>`select * from webhookpub.explain_event(${eventId})`)];
}

async function addTypes(sql: Sql): Promise<void> {
  await sql`insert into webhookpub.event_types (name) select unnest(${HOST_TYPES}::text[])`;
}

void t.test("fan-out, the direct path and explain_event decide by the same rules", async (t) => {
  const { sql } = await testDatabase(t);
  await addTypes(sql);
  const scene = await Promise.all(
    CASES.map(async (one, i) => {
      const userId = `user_${i}`;
      const webhook = await createWebhookWith(sql, {
        p_user_id: userId,
        p_events: one.events ?? "{*}",
        p_filters: one.filters ?? {},
      });
      const args = { ...one.event, user_id: userId };
      const eventId = `event_${i}`;
      await publishBy("webhook_publish_tx", sql, { ...args, event_id: eventId });
      return { ...one, args, eventId, webhookId: webhook.id, matched: one.unmatched === null };
    }),
  );

  const explains = async (when: string) => {
    for (const { name, eventId, webhookId, matched, unmatched } of scene) {
      const explained = await explain(sql, eventId).catch((error: Error) => error.message);
      t.match(explained, [{ webhook_id: webhookId, matched }], `${name}: explained ${when}`);
      const reason = typeof explained === "string" ? "" : (explained[0]?.reason ?? "");
      if (unmatched === null) t.equal(reason, "every clause holds", `${name}: ${when}`);
      else t.match(reason, new RegExp(`^${unmatched}: \\w`), `${name}: ${when}, the clause`);
    }
  };
  await explains("before fan-out");

  await sql`select webhookpub.fan_out(p_limit => 10000)`;
  const events = await sql<
    { id: string; status: string; webhooks: string[] | null; error: string | null }[]
  >`select id, status, matched_webhook_ids as webhooks, last_error as error from webhookpub.events`;
  const deliveries = await sql<{ event_id: string; webhook_id: string }[]>`
    select event_id, webhook_id from webhookpub.deliveries`;
  const eventsById = new Map(events.map((event) => [event.id, event]));
  const deliveredTo = Map.groupBy(deliveries, (delivery) => delivery.event_id);
  for (const { name, eventId, webhookId, matched } of scene) {
    const webhooks = matched ? [webhookId] : [];
    t.strictSame(
      eventsById.get(eventId),
      { id: eventId, status: matched ? "processed" : "no_match", webhooks, error: null },
      name,
    );
    t.strictSame(
      (deliveredTo.get(eventId) ?? []).map((delivery) => delivery.webhook_id),
      webhooks,
      `${name}: deliveries`,
    );
  }
  await explains("after fan-out");

  for (const { name, args, eventId, matched } of scene) {
    const direct = `direct_${eventId}`;
    await publishBy("webhook_publish", sql, { ...args, event_id: direct });
    const made = await sql`select from webhookpub.deliveries where event_id = ${direct}`;
    t.equal(made.count, matched ? 1 : 0, `${name}: on the direct path`);
  }
});

void t.test("a predicate that PostgreSQL can't evaluate harms nobody else", async (t) => {
  const { sql } = await testDatabase(t);
  const other = await createWebhookWith(sql);
  await createWebhookWith(sql, {
    p_filters: { data: '$.at.datetime() > "2024-01-01".datetime()' },
  });
  // No such variable: an error whatever the data is. It is refused, but may be there already.
  const { id } = await createWebhookWith(sql);
  await sql`update webhookpub.webhooks set filters = '{"data": "$limit > 100"}' where id = ${id}`;
  const data = { at: "2023-05-01T00:00:00+00:00" };
  await publishBy("webhook_publish_tx", sql, { event_id: "logged", data });
  t.match(
    await sql`select event_count, delivery_count from webhookpub.fan_out()`,
    [{ event_count: 1, delivery_count: 1 }],
    "the other webhook gets it",
  );
  await publishBy("webhook_publish", sql, { event_id: "direct", data });
  const deliveries = await sql`
    select event_id, webhook_id from webhookpub.deliveries order by event_id`;
  t.strictSame(
    [...deliveries],
    ["direct", "logged"].map((event_id) => ({ event_id, webhook_id: other.id })),
  );
});

void t.test("an event without a value says so, one with another value says that", async (t) => {
  const { sql } = await testDatabase(t);
  for (const [filters, args, without] of [
    [{ agent_ids: ["a"] }, { agent_id: "b" }, {}],
    [{ conversation_ids: ["a"] }, { conversation_id: "b" }, {}],
    [{ labels: ["a"] }, { labels: ["b"] }, { labels: [] }],
  ] as const) {
    const [clause = ""] = Object.keys(filters);
    await createWebhookWith(sql, { p_user_id: clause, p_filters: filters });
    const reasons: (string | undefined)[] = [];
    for (const [i, event] of [without, args].entries()) {
      const id = `${clause}_${i}`;
      await publishBy("webhook_publish_tx", sql, { ...event, user_id: clause, event_id: id });
      reasons.push((await explain(sql, id))[0]?.reason);
    }
    t.equal(reasons[0], `${clause}: the event has none`);
    t.match(reasons[1], new RegExp(`^${clause}: .*in the list`));
  }
});

void t.test("an event goes to every webhook that matches, and to no other", async (t) => {
  const { sql } = await testDatabase(t);
  const matching = await Promise.all([
    createWebhookWith(sql),
    createWebhookWith(sql, { p_events: "{*}" }),
    createWebhookWith(sql, { p_filters: '{"labels": ["vip"]}' }),
    createWebhookWith(sql, { p_filters: '{"data": "$.n == 1"}' }),
  ]);
  const others = await Promise.all([
    createWebhookWith(sql, { p_events: "{email.received}" }),
    createWebhookWith(sql, { p_filters: '{"labels": ["eu"]}' }),
    createWebhookWith(sql, { p_filters: '{"data": "$.n == 2"}' }),
  ]);
  await publishBy("webhook_publish_tx", sql, { event_id: "e", labels: ["vip"], data: { n: 1 } });
  const ids = matching.map(({ id }) => id).toSorted();
  const isMatch = (one: Explanation) => one.matched;
  const idOf = (one: Explanation) => one.webhook_id;
  const before = await explain(sql, "e");
  t.strictSame(before.filter(isMatch).map(idOf).toSorted(), ids);
  t.equal(before.length, matching.length + others.length, "one row for every webhook");

  t.match(await sql`select * from webhookpub.fan_out()`, [{ event_count: 1, delivery_count: 4 }]);
  const [event] = await sql`select matched_webhook_ids as ids from webhookpub.events`;
  t.strictSame(event?.["ids"], ids);
  t.strictSame(await explain(sql, "e"), before, "the decision is the same afterwards");
});

void t.test("routing never leaves the event's user", async (t) => {
  const { sql } = await testDatabase(t);
  const own = await createWebhookWith(sql);
  for (const options of [
    { p_events: "{*}" },
    { p_events: "{email.sent}" },
    { p_events: "{*}", p_filters: { agent_ids: ["agent_1"] } },
    { p_events: "{*}", p_filters: { conversation_ids: ["conv_1"] } },
    { p_events: "{*}", p_filters: { labels: ["vip"] } },
    { p_events: "{*}", p_filters: { data: '$.user_id == "user_2"' } },
  ]) {
    for (const p_user_id of ["user_2", "USER_1", "user_1 ", "user", "user_11", "%", "*"]) {
      await createWebhookWith(sql, { ...options, p_user_id });
    }
  }
  const args = {
    agent_id: "agent_1",
    conversation_id: "conv_1",
    labels: ["vip"],
    data: { user_id: "user_2" },
  };
  await publishBy("webhook_publish_tx", sql, { ...args, event_id: "logged" });
  await publishBy("webhook_publish", sql, { ...args, event_id: "direct" });
  await sql`select webhookpub.fan_out()`;
  const deliveries = await sql`
    select event_id, webhook_id from webhookpub.deliveries order by event_id`;
  t.strictSame(
    [...deliveries],
    ["direct", "logged"].map((event_id) => ({ event_id, webhook_id: own.id })),
  );
  const explained = await explain(sql, "logged");
  t.strictSame(
    explained.map((one) => one.webhook_id),
    [own.id],
    "and explain_event names no webhook of anybody else",
  );
});

void t.test("a disabled or deleted webhook matches nothing", async (t) => {
  const { sql } = await testDatabase(t);
  const live = await createWebhookWith(sql);
  const disabled = await createWebhookWith(sql);
  const deleted = await createWebhookWith(sql);
  await sql`select webhookpub.disable_webhook(${disabled.id})`;
  await sql`select webhookpub.delete_webhook(${deleted.id})`;
  await publishBy("webhook_publish_tx", sql, { event_id: "e" });

  const expected = [
    { webhook_id: live.id, matched: true, reason: "every clause holds" },
    { webhook_id: disabled.id, matched: false, reason: /^enabled: .*disabled/ },
    { webhook_id: deleted.id, matched: false, reason: /^enabled: .*deleted/ },
  ];
  t.match(await explain(sql, "e"), expected, "before fan-out");
  await sql`select webhookpub.fan_out()`;
  t.match(await explain(sql, "e"), expected, "after fan-out");
  const deliveries = await sql`select webhook_id from webhookpub.deliveries`;
  t.strictSame([...deliveries], [{ webhook_id: live.id }]);

  await sql`select webhookpub.enable_webhook(${disabled.id})`;
  await publishBy("webhook_publish_tx", sql, { event_id: "later" });
  await sql`select webhookpub.fan_out()`;
  const later = await sql`
    select webhook_id from webhookpub.deliveries where event_id = 'later' order by 1`;
  t.strictSame(
    later.map((row) => row["webhook_id"]),
    [live.id, disabled.id].toSorted(),
    "an enabled one matches again, and only from then on",
  );
});

void t.test("explain_event keeps to what was decided, and says what has changed", async (t) => {
  const { sql } = await testDatabase(t);
  const changed = await createWebhookWith(sql);
  await publishBy("webhook_publish_tx", sql, { event_id: "e" });
  await sql`select webhookpub.fan_out()`;
  await sql`
    select webhookpub.update_webhook(${changed.id}, p_events => '{email.received}')`;
  const newer = await createWebhookWith(sql);
  t.match(await explain(sql, "e"), [
    { webhook_id: changed.id, matched: true, reason: /matched.*now events: / },
    { webhook_id: newer.id, matched: false, reason: /now.*changed/ },
  ]);
});

void t.test("explain_event knows only events that are there", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhookWith(sql, { p_events: "{email.sent}" });
  for (const id of ["evt_nope", "", null]) {
    await refused(t, sql`select * from webhookpub.explain_event(${id})`, {
      code: "WH020",
      says: id === null ? "null" : `'${id}'`,
    });
  }
});
