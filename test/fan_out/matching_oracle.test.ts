// Fan-out, the direct path and explain_event, against a naive oracle, on random events and
// webhooks. SEED=… repeats a run.
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import type { AnySql } from "../support/named.ts";
import { publishBy } from "../support/publish.ts";
import { randomFrom } from "../support/random.ts";
import { createWebhookWith } from "../support/webhook.ts";

const EVENTS = 1200;
const WEBHOOKS = 200;
const USERS = 12;

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type Data = { [key: string]: Json };

interface Event {
  readonly id: string;
  readonly userId: string;
  readonly type: string;
  readonly agentId: string | null | undefined;
  readonly conversationId: string | null | undefined;
  readonly labels: (string | null)[] | null | undefined;
  readonly data: Data;
}

interface Filters {
  readonly agent_ids?: string[] | null;
  readonly conversation_ids?: string[] | null;
  readonly labels?: string[] | null;
  readonly data?: string | null;
}

interface Candidate {
  readonly id: string;
  readonly userId: string;
  readonly enabled: boolean;
  readonly events: string[];
  readonly filters: Filters;
}

// The oracle --------------------------------------------------------------------------

/** What jsonpath's three-valued logic knows: true, false, or unknown. */
type Truth = boolean | null;

/** In lax mode an array stands for its elements, and one that satisfies is enough. */
function some(value: Json | undefined, holds: (item: Json) => Truth): Truth {
  const items = value === undefined ? [] : Array.isArray(value) ? value : [value];
  const truths = items.map(holds);
  return truths.includes(true) ? true : truths.includes(null) ? null : false;
}

const over = (limit: number) => (item: Json) =>
  typeof item === "number" ? item > limit : item === null ? false : null;
const is = (text: string) => (item: Json) =>
  typeof item === "string" ? item === text : item === null ? false : null;
const skuIs = (text: string) => (item: Json) => some((item as Data | null)?.["sku"], is(text));
const not = (truth: Truth): Truth => (truth === null ? null : !truth);

/** Predicates over data, each beside what it means. */
const PREDICATES: Record<string, (data: Data) => Truth> = {
  "$.amount > 100": ({ amount }) => some(amount, over(100)),
  "$.amount > 10": ({ amount }) => some(amount, over(10)),
  "!($.amount > 100)": ({ amount }) => not(some(amount, over(100))),
  "($.amount > 100) is unknown": ({ amount }) => some(amount, over(100)) === null,
  '$.to == "a@x.example"': ({ to }) => some(to, is("a@x.example")),
  '$.to == "Grüße, \\"du\\""': ({ to }) => some(to, is('Grüße, "du"')),
  '$.to starts with "a@"': ({ to }) =>
    some(to, (item) => (typeof item === "string" ? item.startsWith("a@") : null)),
  '$.to like_regex "^A@" flag "i"': ({ to }) =>
    some(to, (item) => (typeof item === "string" ? /^A@/i.test(item) : null)),
  "exists($.cc)": ({ cc }) => cc !== undefined,
  "!exists($.cc)": ({ cc }) => cc === undefined,
  "$.cc == null": ({ cc }) => some(cc, (item) => item === null),
  '$.items[*].sku == "x"': ({ items }) => some(items, skuIs("x")),
  '$.amount > 100 && $.to == "a@x.example"': ({ amount, to }) =>
    some(amount, over(100)) === true && some(to, is("a@x.example")) === true,
  '$.amount > 100 || $.to == "a@x.example"': ({ amount, to }) =>
    some(amount, over(100)) === true || some(to, is("a@x.example")) === true,
  "strict $.amount > 100": ({ amount }) => (amount === undefined ? null : over(100)(amount)),
  "$.flag == true": ({ flag }) => some(flag, (item) => item === true),
  // What can't be evaluated never matches; the operator raises some of it all the same.
  "$.amount / 0 > 1": () => null,
  '$.at.datetime() > "2024-01-01".datetime()': ({ at }) =>
    some(at, (item) =>
      typeof item === "string" && /^\d{4}-\d\d-\d\d$/.test(item) ? item > "2024-01-01" : null,
    ),
};

/** The first clause that keeps an event from a webhook of the same user; null: it matches. */
function unmatched(event: Event, webhook: Candidate): string | null {
  const { filters } = webhook;
  const fits = (entry: string) =>
    entry === "*" ||
    (entry.endsWith(".*") ? event.type.startsWith(entry.slice(0, -1)) : entry === event.type);
  const allows = (list: string[] | null | undefined, values: (string | null | undefined)[]) =>
    !list?.length || values.some((value) => typeof value === "string" && list.includes(value));
  if (!webhook.enabled) return "enabled";
  if (!webhook.events.some(fits)) return "events";
  if (!allows(filters.agent_ids, [event.agentId])) return "agent_ids";
  if (!allows(filters.conversation_ids, [event.conversationId])) return "conversation_ids";
  if (!allows(filters.labels, event.labels ?? [])) return "labels";
  if (filters.data && PREDICATES[filters.data]!(event.data) !== true) return "data";
  return null;
}

// What is random ----------------------------------------------------------------------

const random = randomFrom();
t.comment(`SEED=${random.seed}`);

const { below, pick } = random;
const chance = (percent: number) => below(100) < percent;
const several = <T>(n: number, make: () => T): T[] => Array.from({ length: n }, make);

const TYPES = [
  "email.received",
  "email.sent",
  "email.sent.bounced",
  "email.sent.bounced.hard",
  "emails.sent",
  "email_x.sent",
  "webhook.disabled",
];
const PATTERNS = [...TYPES, "*", "email.*", "email.sent.*", "emails.*", "webhook.*", "order.paid"];
const VALUES = ["a", "b", "A", "a ", "null", "{a}", 'a,"b"', "ü", "*", "%"];
const user = () => `user_${below(USERS)}`;

const list = () =>
  pick<() => string[] | null | undefined>([
    () => undefined,
    () => undefined,
    () => null,
    () => [],
    () => several(1 + below(4), () => pick(VALUES)),
    () => several(1 + below(8), () => pick(VALUES)),
  ])();

function randomFilters(): Filters {
  const predicate = pick([...Object.keys(PREDICATES), null, undefined, undefined, undefined]);
  const all = { agent_ids: list(), conversation_ids: list(), labels: list(), data: predicate };
  return Object.fromEntries(
    Object.entries(all).filter(([, value]) => value !== undefined && chance(60)),
  );
}

const value = () => pick<string | null | undefined>([undefined, null, "", ...VALUES, ...VALUES]);

const amount = () => pick<Json>([0, 50, 101, 100, 1e9, -1, "150", null, true]);
const to = () => pick<Json>(["a@x.example", "b@x.example", 'Grüße, "du"', "A@x", "", null, 7]);
const item = (): Json => pick<Json>([{ sku: "x" }, { sku: "y" }, { sku: null }, { qty: 1 }]);

function randomData(): Data {
  const all: Record<string, () => Json> = {
    amount: () => (chance(20) ? several(below(3), amount) : amount()),
    to: () => (chance(20) ? several(below(3), to) : to()),
    cc: () => pick<Json>([[], null, "c@x.example", [null]]),
    items: () => (chance(80) ? several(below(4), item) : item()),
    flag: () => pick<Json>([true, false, null, "true", [true]]),
    at: () => pick<Json>(["2023-05-01", "2025-05-01", "2025-05-01T00:00:00+02:00", "soon", 1]),
  };
  return Object.fromEntries(
    Object.entries(all)
      .filter(() => chance(70))
      .map(([key, make]) => [key, make()]),
  );
}

async function randomWebhook(sql: AnySql): Promise<Candidate> {
  const webhook = {
    userId: user(),
    events: several(1 + below(3), () => pick(PATTERNS)),
    filters: randomFilters(),
  };
  const fate = pick(["", "", "", "", "", "", "disable", "delete", "again"]);
  const { id } = await createWebhookWith(sql, {
    p_user_id: webhook.userId,
    p_events: webhook.events,
    p_filters: webhook.filters,
  });
  if (fate === "delete") await sql`select webhookpub.delete_webhook(${id})`;
  if (fate === "disable" || fate === "again") await sql`select webhookpub.disable_webhook(${id})`;
  if (fate === "again") await sql`select webhookpub.enable_webhook(${id})`;
  return { ...webhook, id, enabled: fate === "" || fate === "again" };
}

let events = 0;

function randomEvent(): Event {
  events += 1;
  return {
    id: `event_${events}`,
    userId: user(),
    type: pick(TYPES),
    agentId: value(),
    conversationId: value(),
    labels: pick<() => Event["labels"]>([
      () => undefined,
      () => null,
      () => [],
      () => [null],
      () => several(1 + below(3), () => pick<string | null>([...VALUES, null])),
    ])(),
    data: randomData(),
  };
}

// The comparison ----------------------------------------------------------------------

/** What was decided about a webhook: the clause that keeps the event from it, or null. */
type Decisions = ReadonlyMap<string, string | null>;

const key = (eventId: string, webhookId: string) => `${eventId} ${webhookId}`;

async function explained(sql: Sql): Promise<Decisions> {
  const rows = await sql<
    { event_id: string; webhook_id: string; matched: boolean; reason: string }[]
  >`
    select e.id as event_id, x.webhook_id, x.matched, x.reason
    from webhookpub.events as e
    cross join lateral webhookpub.explain_event(e.id) as x`;
  return new Map(
    rows.map((row) => {
      const clause = row.matched ? null : row.reason.replace(/:.*/s, "");
      return [key(row.event_id, row.webhook_id), clause];
    }),
  );
}

/** Those for which there is a delivery, and no word about others. */
async function delivered(sql: Sql): Promise<ReadonlySet<string>> {
  const rows = await sql<{ event_id: string; webhook_id: string }[]>`
    select event_id, webhook_id from webhookpub.deliveries`;
  return new Set(rows.map((row) => key(row.event_id, row.webhook_id)));
}

void t.test("fan-out, the direct path and explain_event agree with the oracle", async (t) => {
  const { sql } = await testDatabase(t);
  await sql`
    insert into webhookpub.event_types (name) select unnest(${TYPES}::text[])
    on conflict do nothing`;
  // One after the other, so that a seed always makes the same ones.
  const webhooks: Candidate[] = [];
  for (let i = 0; i < WEBHOOKS; i++) webhooks.push(await randomWebhook(sql));
  const all = several(EVENTS, randomEvent);
  const published = async (by: "webhook_publish_tx" | "webhook_publish", prefix: string) => {
    await Promise.all(
      all.map((event) =>
        publishBy(by, sql, {
          event_type: event.type,
          user_id: event.userId,
          data: event.data,
          agent_id: event.agentId,
          conversation_id: event.conversationId,
          labels: event.labels,
          event_id: prefix + event.id,
        }),
      ),
    );
  };
  await published("webhook_publish_tx", "");

  const pairs = all.flatMap((event) =>
    webhooks
      .filter((webhook) => webhook.userId === event.userId)
      .map((webhook) => ({ event, webhook, expected: unmatched(event, webhook) })),
  );
  const clauses = new Map<string | null, number>();
  for (const { expected } of pairs) clauses.set(expected, (clauses.get(expected) ?? 0) + 1);
  t.comment(`${pairs.length} pairs: ${JSON.stringify(Object.fromEntries(clauses))}`);
  t.ok([...clauses.values()].every((count) => count > 20) && clauses.size === 7, "of every kind");

  /** Shows the first of those that differ, with all that is needed to understand it. */
  const agree = (name: string, found: (pair: (typeof pairs)[number]) => unknown) => {
    const wrong = pairs
      .map((pair) => ({ ...pair, found: found(pair) }))
      .filter((pair) => pair.found !== pair.expected);
    for (const one of wrong.slice(0, 3)) t.comment(`SEED=${random.seed} ${JSON.stringify(one)}`);
    t.equal(wrong.length, 0, `${name}: pairs on which it differs from the oracle`);
  };
  const explains = async (when: string, prefixes = [""]) => {
    const decisions = await explained(sql);
    t.equal(
      decisions.size,
      prefixes.length * pairs.length,
      `${when}: one row a webhook of the event's user`,
    );
    for (const prefix of prefixes) {
      agree(`explain_event ${when} ${prefix}`, ({ event, webhook }) =>
        decisions.get(key(prefix + event.id, webhook.id)),
      );
    }
  };
  await explains("before fan-out");
  while ((await sql`select from webhookpub.events where status = 'pending'`).count > 0) {
    await sql`select webhookpub.fan_out(p_limit => ${1 + below(400)})`;
  }
  await published("webhook_publish", "direct_");

  const deliveries = await delivered(sql);
  const matching = pairs.filter(({ expected }) => expected === null).length;
  t.equal(deliveries.size, 2 * matching, "not one delivery more, to whomever");
  for (const [name, prefix] of [
    ["fan-out", ""],
    ["the direct path", "direct_"],
  ] as const) {
    agree(name, ({ event, webhook, expected }) => {
      if (!deliveries.has(key(prefix + event.id, webhook.id))) return expected ?? "no delivery";
      return expected === null ? null : "a delivery";
    });
  }
  await explains("after fan-out", ["", "direct_"]);
  const decided = await sql<{ id: string; ids: string[]; status: string }[]>`
    select id, matched_webhook_ids as ids, status from webhookpub.events`;
  for (const { id, ids, status } of decided) {
    for (const one of ids) if (!deliveries.has(key(id, one))) t.fail(`${id}: ${one}`);
    if ((status === "processed") !== ids.length > 0) t.fail(`${id}: ${status}`);
  }
  t.equal(
    decided.flatMap(({ ids }) => ids).length,
    2 * matching,
    "matched_webhook_ids say the same",
  );
});
