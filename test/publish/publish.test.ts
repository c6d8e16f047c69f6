import { createHash } from "node:crypto";
import t from "tap";
import { testDatabase } from "../support/database.ts";
import { noticeSession } from "../support/notices.ts";
import {
  NOTHING,
  PUBLISH_FUNCTIONS,
  type PublishFunction,
  publishBy,
  written,
} from "../support/publish.ts";
import type { AnySql, Arguments } from "../support/named.ts";
import { refused } from "../support/refused.ts";
import { createWebhookWith } from "../support/webhook.ts";
import { until } from "../support/until.ts";
import { backendOf, untilBlocked } from "../support/waiting.ts";
import { leaseRequests } from "../support/leases.ts";

/** For tests that disturb nobody; two users have a webhook in it. The others have their own. */
const common = await testDatabase(t);
await createWebhookWith(common.sql);
await createWebhookWith(common.sql, { p_user_id: "user_2" });

const publishTx = (sql: AnySql, args?: Arguments) => publishBy("webhook_publish_tx", sql, args);

/** The id that the contract derives from these parts. */
function idOf(...parts: string[]): string {
  const digest = createHash("sha256").update(parts.join("|"), "utf8").digest("hex");
  return `evt_${digest.slice(0, 32)}`;
}

const limit = (bytes: number) => "x".repeat(bytes);

// Event ids ---------------------------------------------------------------------------

void t.test("event_id is the SHA-256 of the parts, as UTF-8, joined by |", async (t) => {
  const { sql } = common;
  const idBySql = async (parts: string[]) => {
    const [row] = await sql<[{ id: string }]>`select webhookpub.event_id(variadic ${parts}) as id`;
    return row.id;
  };
  for (const parts of [
    ["msg_1", "email.received"],
    ["msg_1"],
    ["Grüße", "email.sent", "日本語"],
    ["🦄", "email.sent"],
    ["a|b", "c"],
    ["", ""],
    ["it's", 'a "quoted" \\ part', "with\nlines"],
    Array.from({ length: 20 }, (_, i) => `part ${i}`),
  ]) {
    t.equal(await idBySql(parts), idOf(...parts), parts.join("|"));
  }
  t.equal(
    await idBySql(["msg_1", "email.received"]),
    "evt_eafc4202bcc7837f71a099b118431601",
    "a known value, so that ids stay what they are",
  );
});

void t.test("event_id refuses to make an id of nothing", async (t) => {
  const { sql } = common;
  for (const { parts, says } of [
    { parts: "null", says: "null" },
    { parts: "'msg_1', null", says: "{msg_1,NULL}" },
    { parts: "null, 'email.sent'", says: "{NULL,email.sent}" },
    { parts: "variadic '{}'", says: "{}" },
    { parts: "variadic null::text[]", says: "null" },
  ]) {
    const query = sql.unsafe(`select webhookpub.event_id(${parts})`);
    await refused(t, query, { code: "WH001", says }, `event_id(${parts})`);
  }
});

void t.test("every publish function derives the same id from the same arguments", async (t) => {
  const { sql } = common;
  const type = "email.received";
  for (const { args, id } of [
    { args: { message_id: "msg_1" }, id: idOf("msg_1", type) },
    { args: { dedup_key: "once" }, id: idOf(type, "once") },
    { args: { message_id: "msg_1", dedup_key: "once" }, id: idOf("msg_1", type, "once") },
    { args: { message_id: "Grüße", dedup_key: "🦄" }, id: idOf("Grüße", type, "🦄") },
    { args: { message_id: "", dedup_key: null }, id: idOf("", type) },
    { args: { message_id: null, dedup_key: "" }, id: idOf(type, "") },
    { args: { message_id: "msg_1", event_id: "given-1" }, id: "given-1" },
    { args: { event_id: "given:2" }, id: "given:2" },
  ]) {
    for (const publish of PUBLISH_FUNCTIONS) {
      t.equal(
        await publishBy(publish, sql, { event_type: type, ...args }),
        id,
        `${publish} ${JSON.stringify(args)}`,
      );
    }
  }
});

void t.test("an event that nothing identifies gets a random id of the same form", async (t) => {
  const { sql } = common;
  const ids = await Promise.all(
    PUBLISH_FUNCTIONS.flatMap((publish) => [publishBy(publish, sql), publishBy(publish, sql)]),
  );
  const rows = await sql<{ id: string }[]>`
    select webhookpub.random_event_id() as id from generate_series(1, 20)`;
  ids.push(...rows.map((row) => row.id));
  for (const id of ids) t.match(id, /^evt_[0-9a-f]{32}$/);
  t.equal(new Set(ids).size, 26, "no two are the same");
  // In microseconds, of which one may see two.
  const times = rows.map((row) => row.id.slice(0, 20));
  t.strictSame(times, times.toSorted(), "those of one time lie side by side in an index");
});

// Refusals ----------------------------------------------------------------------------

interface BadEvent {
  readonly why: string;
  readonly args: Arguments;
  readonly code: string;
  readonly says: string | RegExp;
}

const BAD_EVENTS: readonly BadEvent[] = [
  { why: "a blank in its id", args: { event_id: "a b" }, code: "WH001", says: "'a b'" },
  { why: "an empty id", args: { event_id: "" }, code: "WH001", says: "''" },
  { why: "an id with a line break", args: { event_id: "a\nb" }, code: "WH001", says: "a\nb" },
  { why: "an id that is not ASCII", args: { event_id: "evt_ü" }, code: "WH001", says: "'evt_ü'" },
  { why: "a quote in its id", args: { event_id: 'a"b' }, code: "WH001", says: `'a"b'` },
  { why: "a backslash in its id", args: { event_id: "a\\b" }, code: "WH001", says: "a\\\\b" },
  {
    why: "an overlong id",
    args: { event_id: limit(201) },
    code: "WH001",
    says: limit(201),
  },
  {
    why: "an unknown type",
    args: { event_type: "email.snet" },
    code: "WH002",
    says: "'email.snet'",
  },
  { why: "no type", args: { event_type: null }, code: "WH002", says: "null" },
  {
    why: "a type in another case",
    args: { event_type: "Email.Sent" },
    code: "WH002",
    says: "'Email.Sent'",
  },
  {
    why: "a pattern for a type",
    args: { event_type: "email.*" },
    code: "WH002",
    says: "'email.*'",
  },
  { why: "no data", args: { data: null }, code: "WH003", says: /data is null.*object/ },
  { why: "a JSON null for data", args: { data: "null" }, code: "WH003", says: "data is null" },
  { why: "a list for data", args: { data: "[{}]" }, code: "WH003", says: "data is array" },
  { why: "a text for data", args: { data: '"x"' }, code: "WH003", says: "data is string" },
  { why: "a number for data", args: { data: "1" }, code: "WH003", says: "data is number" },
  {
    why: "data over the limit",
    args: { data: { pad: limit(262_144) } },
    code: "WH003",
    says: /event of 262\d{3} bytes.*262144/,
  },
  {
    why: "data over the limit in bytes, not in characters",
    args: { data: { pad: "ü".repeat(140_000) } },
    code: "WH003",
    says: /event of 280\d{3} bytes.*262144/,
  },
  {
    why: "labels over the limit",
    args: { labels: Array.from({ length: 300 }, () => limit(1000)) },
    code: "WH003",
    says: "262144",
  },
  { why: "no user", args: { user_id: null }, code: "WH005", says: "null" },
  { why: "an empty user", args: { user_id: "" }, code: "WH005", says: "''" },
  { why: "an overlong user", args: { user_id: limit(201) }, code: "WH005", says: limit(40) },
  {
    why: "an id of another user",
    args: { event_id: "taken", user_id: "user_2" },
    code: "WH004",
    says: /'taken'.*'user_2'/,
  },
];

void t.test("webhook_publish_tx refuses, and nothing is written", async (t) => {
  const { sql } = common;
  await publishTx(sql, { event_id: "taken" });
  const before = await written(sql);
  for (const { why, args, code, says } of BAD_EVENTS) {
    await refused(t, publishTx(sql, args), { code, says }, why);
  }
  t.strictSame(await written(sql), before, "nothing is written");
});

void t.test("a hint tells JSON that was encoded twice from what is no object", async (t) => {
  const { sql } = common;
  const hint = async (query: PromiseLike<unknown>) =>
    await Promise.resolve(query).then(
      () => "it was taken",
      (error: { hint?: string }) => error.hint ?? "no hint",
    );
  const calls = {
    data: (json: string) => sql`select webhook_publish_tx('email.sent', 'user_1', ${json})`,
    filters: (json: string) => sql`
      select webhookpub.create_webhook('user_1', 'https://a.example/', '{*}', p_filters => ${json})`,
    headers: (json: string) => sql`
      select webhookpub.create_webhook('user_1', 'https://a.example/', '{*}', p_headers => ${json})`,
  };
  for (const [name, call] of Object.entries(calls)) {
    // postgres.js makes JSON of what is meant for jsonb, of JSON text as well.
    for (const json of ['{"a": 1}', " {}\n"]) {
      t.match(await hint(call(json)), /encoded twice/, `${name}: ${json}`);
    }
    for (const text of ["", "hello", "{hello}", "[1]", '"{}"', "1", "null"]) {
      t.match(await hint(call(text)), /^(?!it was taken|no hint|.*twice)/, `${name}: ${text}`);
    }
  }
});

void t.test("webhook_publish_best_effort_tx keeps what it can't publish", async (t) => {
  const { sql } = common;
  await publishTx(sql, { event_id: "taken" });
  await sql`create table best_effort_rows (why text)`;
  const before = await written(sql);

  for (const { why, args, code, says } of BAD_EVENTS) {
    const id = await sql.begin(async (tx) => {
      await tx`insert into best_effort_rows values (${why})`;
      return publishBy("webhook_publish_best_effort_tx", tx, {
        agent_id: "agent_1",
        conversation_id: "conv_1",
        message_id: "msg_1",
        dedup_key: "once",
        labels: ["a", "b"],
        ...args,
      });
    });
    t.equal(id, null, `${why}: null is returned`);
    const [{ message, ...kept }] = await sql<[{ message: string }]>`
      delete from webhookpub.publish_failures
      returning
        event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
        event_id, sqlstate, message,
        created_at between now() - interval '5 minutes' and now() as recent`;
    const { data = {}, ...given } = args;
    t.strictSame(
      kept,
      {
        event_type: "email.sent",
        user_id: "user_1",
        agent_id: "agent_1",
        conversation_id: "conv_1",
        labels: ["a", "b"],
        message_id: "msg_1",
        dedup_key: "once",
        event_id: null,
        ...given,
        data: typeof data === "string" ? JSON.parse(data) : data,
        sqlstate: code,
        recent: true,
      },
      `${why}: arguments, SQLSTATE and time are kept`,
    );
    t.match(message, says, `${why}: and the message`);
  }

  const [rows] = await sql`select count(*)::integer as n from best_effort_rows`;
  t.equal(rows?.["n"], BAD_EVENTS.length, "every caller commits");
  t.strictSame(await written(sql), before, "nothing else is written");
});

void t.test("webhook_publish warns and drops what it can't publish", async (t) => {
  const { sql, url } = common;
  await publishTx(sql, { event_id: "taken" });
  await sql`create table direct_rows (why text)`;
  const before = await written(sql);
  const session = noticeSession(t, url);

  for (const { why, args, code, says } of BAD_EVENTS) {
    await session.sql`begin`;
    await session.sql`insert into direct_rows values (${why})`;
    t.equal(await publishBy("webhook_publish", session.sql, args), null, `${why}: null`);
    await session.sql`commit`;
    const warnings = session.warnings();
    t.match(warnings, [says], `${why}: a WARNING says why`);
    t.match(warnings, [code], `${why}: and its SQLSTATE`);
    t.equal(warnings.length, 1);
  }
  const [rows] = await sql`select count(*)::integer as n from direct_rows`;
  t.equal(rows?.["n"], BAD_EVENTS.length, "every caller commits");
  t.strictSame(await written(sql), before, "nothing is written");
});

// Event catalog -----------------------------------------------------------------------

void t.test("the catalog holds the shipped types, and a host adds its own", async (t) => {
  const { sql } = common;
  const types = await sql<{ name: string; valid: boolean; described: boolean }[]>`
    select name, webhookpub.is_valid_event_type(name) as valid, description <> '' as described
    from webhookpub.event_types
    order by name`;
  t.strictSame(
    [...types],
    [
      "email.approved",
      "email.pending_approval",
      "email.received",
      "email.rejected",
      "email.sent",
      "webhook.delivery_failed",
      "webhook.disabled",
    ].map((name) => ({ name, valid: true, described: true })),
  );

  const isValid = async (name: string | null) => {
    const [row] = await sql<[{ valid: boolean }]>`
      select webhookpub.is_valid_event_type(${name}) as valid`;
    return row.valid;
  };
  for (const name of ["email", "email.*", "email.%", "EMAIL.SENT", "order.paid", "", null]) {
    t.equal(await isValid(name), false, `${name} is no event type`);
  }
  const order = { event_type: "order.paid", event_id: "order_1" };
  await refused(t, publishTx(sql, order), { code: "WH002", says: "'order.paid'" });
  await sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  t.equal(await isValid("order.paid"), true);
  t.equal(await publishTx(sql, order), "order_1");
});

void t.test(
  "a change of the catalog counts at once, in its own transaction and after",
  async (t) => {
    const { sql, session } = await testDatabase(t);
    const of = (type: string) => ({ event_type: type });
    await sql.begin(async (own) => {
      await own`insert into webhookpub.event_types (name) values ('order.paid')`;
      t.match(await publishTx(own, of("order.paid")), /^evt_/);
      const other = session();
      await refused(t, publishTx(other, of("order.paid")), { code: "WH002", says: "order.paid" });
    });
    t.match(await publishTx(sql, of("order.paid")), /^evt_/);
    await sql`update webhookpub.event_types set name = 'order.settled' where name = 'order.paid'`;
    t.match(await publishTx(sql, of("order.settled")), /^evt_/);
    await refused(t, publishTx(sql, of("order.paid")), { code: "WH002", says: "order.paid" });
    await sql`delete from webhookpub.event_types where name = 'order.settled'`;
    await refused(t, publishTx(sql, of("order.settled")), { code: "WH002", says: "order.settled" });

    // Two changes at once: the second waits for the first, and sees it.
    const [first, second] = [session(), session()];
    await first`begin`;
    await first`insert into webhookpub.event_types (name) values ('order.first')`;
    const pid = await backendOf(second);
    const inserted = second`
    insert into webhookpub.event_types (name) values ('order.second')`.execute();
    await untilBlocked(sql, pid);
    t.match(await publishTx(sql, of("email.sent")), /^evt_/, "no publisher waits for them");
    await first`commit`;
    await inserted;
    for (const type of ["order.first", "order.second", "email.sent"]) {
      t.match(await publishTx(sql, of(type)), /^evt_/, type);
    }
    await sql`truncate webhookpub.event_types`;
    await refused(t, publishTx(sql, of("email.sent")), { code: "WH002", says: "email.sent" });
  },
);

void t.test("the name of an event type is dot-separated lowercase words", async (t) => {
  const { sql } = common;
  const insert = (name: string | null) =>
    sql`insert into webhookpub.event_types (name) values (${name})`;
  for (const name of ["a.b", "email.sent_2", "order.line_item.paid", "x1.y2_z3.w"]) {
    t.equal((await insert(name)).count, 1, name);
  }
  for (const name of [
    "email",
    "email.",
    ".sent",
    "email..sent",
    "Email.sent",
    "email.SENT",
    "1email.sent",
    "email.1sent",
    "_email.sent",
    "email.sent ",
    " email.sent",
    "email.sent\n",
    "e-mail.sent",
    "émail.sent",
    "email.*",
    "*",
    "",
  ]) {
    await t.rejects(insert(name), { code: "23514", constraint_name: /lowercase_words/ }, name);
  }
  await t.rejects(insert(null), { code: "23502" });
  await t.rejects(insert("email.sent"), { code: "23505" });
});

// Envelope ----------------------------------------------------------------------------

void t.test("the envelope is text, its keys in order, its time RFC 3339 in UTC", async (t) => {
  const { sql, session } = await testDatabase(t);
  await createWebhookWith(sql, { p_events: "{*}" });
  const abroad = session();
  await abroad`set timezone = 'Asia/Kolkata'`;
  await abroad`set datestyle = 'German, DMY'`;
  await abroad`set extra_float_digits = 0`;

  // As jsonb writes it: this is what text → jsonb → text leaves as it is.
  const data =
    '{"s": "Grüße, \\"日本\\" \\\\ / \\u0001 🦄", "n": 12345678901234567890.100, "list": [1.0, true, null, {}], "empty": ""}';
  const [canonical] = await sql<[{ text: string }]>`select ${data}::text::jsonb::text as text`;
  for (const [i, publish] of PUBLISH_FUNCTIONS.entries()) {
    const id = `'${i}'<&>{}`;
    await publishBy(publish, abroad, { event_id: id, data });
    const [found] = await sql<[{ envelope: string; type: string; at: string }]>`
      select
        n.envelope, pg_typeof(n.envelope)::text as type,
        to_char(n.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at
      from webhookpub.envelopes_by_event as n
      where n.event_id = ${id}`;
    t.equal(found.type, "text", publish);
    t.match(found.at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    t.equal(
      found.envelope,
      `{"event": "email.sent", "id": ${JSON.stringify(id)}, "created_at": "${found.at}", "data": ${canonical.text}}`,
      `${publish}: to the byte`,
    );
    const envelope = JSON.parse(found.envelope) as Record<string, unknown>;
    t.strictSame(Object.keys(envelope), ["event", "id", "created_at", "data"]);
    t.strictSame(envelope["data"], JSON.parse(data));
  }
  const [same] = await sql<[{ same: boolean }]>`
    select bool_and(e.created_at = n.created_at) as same
    from webhookpub.events as e
    join webhookpub.envelopes_by_event as n on n.event_id = e.id`;
  t.equal(same.same, true, "created_at is that of the event");
  const [age] = await sql<[{ recent: boolean }]>`
    select bool_and(created_at between now() - interval '5 minutes' and clock_timestamp()) as recent
    from webhookpub.envelopes_by_event`;
  t.equal(age.recent, true, "and the time of publishing, whatever the session's time zone");
});

void t.test("the bytes that a worker gets are those of the envelope", async (t) => {
  const { sql } = await testDatabase(t);
  const { id: webhookId } = await createWebhookWith(sql);
  for (const [i, publish] of PUBLISH_FUNCTIONS.entries()) {
    await publishBy(publish, sql, { event_id: `e${i}`, data: '{"n": 1.10, "s": "日本"}' });
  }
  await sql`select webhookpub.fan_out()`;
  const leased = (await leaseRequests(sql, [webhookId])).map(({ headers, body }) => ({
    id: headers["webhook-id"] ?? "",
    body,
  }));
  leased.sort((one, other) => (one.id < other.id ? -1 : 1));
  const stored = await sql<{ id: string; body: string }[]>`
    select event_id as id, envelope as body from webhookpub.envelopes_by_event order by 1`;
  t.equal(leased.length, 3);
  t.strictSame([...leased], [...stored]);
  t.match(leased[0]?.body, '"data": {"n": 1.10, "s": "日本"}}');
});

// Limits and switches -----------------------------------------------------------------

void t.test("settings.max_payload_bytes moves the limit", async (t) => {
  const { sql } = await testDatabase(t);
  const [shipped] = await sql<[{ limit: number }]>`
    select max_payload_bytes as limit from webhookpub.settings`;
  t.equal(shipped.limit, 256 * 1024);
  const of = (bytes: number) => ({ data: { pad: limit(bytes) } });
  t.match(await publishTx(sql, of(261_000)), /^evt_/, "just under 256 KiB");
  t.match(await publishTx(sql, { data: { pad: "ü".repeat(130_000) } }), /^evt_/, "in bytes");
  await refused(t, publishTx(sql, of(262_144)), { code: "WH003", says: "262144" });

  await sql`update webhookpub.settings set max_payload_bytes = 1000`;
  t.match(await publishTx(sql, of(700)), /^evt_/);
  await refused(t, publishTx(sql, of(1000)), { code: "WH003", says: /bytes.* 1000/ });
  await sql`update webhookpub.settings set max_payload_bytes = 1000000`;
  t.match(await publishTx(sql, of(900_000)), /^evt_/);
});

void t.test("the kill switch stops all three, and pending deliveries go on", async (t) => {
  const { sql, url } = await testDatabase(t);
  const { id: webhookId } = await createWebhookWith(sql);
  await publishTx(sql);
  await sql`select webhookpub.fan_out()`;
  await publishTx(sql, { event_id: "x" });
  await publishTx(sql, { event_id: "y", user_id: "user_2" });
  await sql`update webhookpub.settings set publish_enabled = false`;
  const before = await written(sql);
  const session = noticeSession(t, url);
  for (const publish of PUBLISH_FUNCTIONS) {
    t.equal(await publishBy(publish, session.sql), null, `${publish} returns null`);
    for (const args of [{ event_id: "x" }, { event_id: "y" }, { user_id: null }]) {
      t.equal(await publishBy(publish, session.sql, args), null, "known, foreign or wrong");
    }
  }
  t.strictSame(session.warnings(), [], "and says nothing");
  t.strictSame(await written(sql), before, "nothing is written");
  const leased = await sql`select from webhookpub.lease_deliveries(${[webhookId]})`;
  t.equal(leased.count, 1, "what is pending is delivered");

  await sql`update webhookpub.settings set publish_enabled = true`;
  for (const publish of PUBLISH_FUNCTIONS) t.match(await publishBy(publish, sql), /^evt_/);
});

// Duplicates --------------------------------------------------------------------------

/** Every order in which two publish functions can meet. */
const PAIRS = PUBLISH_FUNCTIONS.flatMap((first) =>
  PUBLISH_FUNCTIONS.map((second) => ({ first, second })),
);

void t.test("publishing the same id again is a no-op, on whichever path", async (t) => {
  const { sql } = common;
  for (const { first, second } of PAIRS) {
    const name = `${first}, then ${second}`;
    const args = { message_id: name };
    const id = await publishBy(first, sql, { ...args, data: '{"n": 1}' });
    const before = await written(sql);
    t.equal(await publishBy(second, sql, { ...args, data: '{"n": 2}' }), id, name);
    t.strictSame(await written(sql), before, `${name}: nothing is written`);
    await sql`select webhookpub.fan_out()`;
    t.equal(await publishBy(second, sql, { ...args, data: '{"n": 3}' }), id, name);
    const envelopes = await sql<{ data: object }[]>`
      select n.envelope::jsonb -> 'data' as data
      from webhookpub.envelopes_by_event as n
      where n.event_id = ${id}`;
    t.strictSame([...envelopes], [{ data: { n: 1 } }], `${name}: the first one's bytes only`);
    const deliveries = await sql`select from webhookpub.deliveries where event_id = ${id}`;
    t.equal(deliveries.count, 1, `${name}: one delivery`);
  }
});

void t.test("the same id of another user is refused, on whichever path", async (t) => {
  const { sql, url } = common;
  const session = noticeSession(t, url);
  for (const { first, second } of PAIRS) {
    const id = `${first}-${second}`;
    const name = `${first}, then ${second}`;
    await publishBy(first, sql, { event_id: id });
    const before = await written(sql);
    const again = publishBy(second, session.sql, { event_id: id, user_id: "user_2" });
    if (second === "webhook_publish_tx") {
      await refused(t, again, { code: "WH004", says: `'${id}'` }, name);
    } else {
      t.equal(await again, null, `${name}: null`);
      const kept = await sql<{ sqlstate: string }[]>`
        delete from webhookpub.publish_failures returning sqlstate`;
      const told = second === "webhook_publish" ? session.warnings()[0] : kept[0]?.sqlstate;
      t.match(told, "WH004", `${name}: it is told`);
    }
    t.strictSame(await written(sql), before, `${name}: nothing is written`);
  }
});

void t.test("fifty sessions that publish the same id at once make one event", async (t) => {
  const { sql, session } = common;
  for (const publish of PUBLISH_FUNCTIONS) {
    const sessions = Array.from({ length: 50 }, () => session());
    // All begin, so that all have a connection, before the first one publishes.
    await Promise.all(sessions.map((one) => one`begin`));
    const ids = await Promise.all(
      sessions.map(async (one, n) => {
        const id = await publishBy(publish, one, { dedup_key: publish, data: { n } });
        await one`commit`;
        return id;
      }),
    );
    const id = idOf("email.sent", publish);
    t.strictSame(new Set(ids), new Set([id]), `${publish}: all get the same id`);
    await sql`select webhookpub.fan_out()`;
    const [counts] = await sql<[Record<string, number>]>`
      select
        (select count(*)::integer from webhookpub.events where id = ${id}) as events,
        (select count(*)::integer from webhookpub.envelopes_by_event where event_id = ${id}) as envelopes,
        (select count(*)::integer from webhookpub.deliveries where event_id = ${id}) as deliveries`;
    t.strictSame(counts, { events: 1, envelopes: 1, deliveries: 1 }, publish);
    await Promise.all(sessions.map((one) => one.end()));
  }
});

void t.test("whoever waits for the same id takes over when the first rolls back", async (t) => {
  const { sql, session } = common;
  for (const publish of PUBLISH_FUNCTIONS) {
    const [first, second] = [session(), session()];
    const pid = await backendOf(second);
    const id = `${publish}-race`;
    await first`begin`;
    await publishBy(publish, first, { event_id: id, data: '{"n": 1}' });
    const waiting = publishBy(publish, second, { event_id: id, data: '{"n": 2}' });
    await untilBlocked(sql, pid);
    await first`rollback`;
    t.equal(await waiting, id);
    const [row] = await sql`
      select envelope from webhookpub.envelopes_by_event where event_id = ${id}`;
    t.match(row?.["envelope"], '"data": {"n": 2}', `${publish}: no event is lost`);
  }
});

// The caller's transaction ------------------------------------------------------------

void t.test("a rollback leaves nothing, and a commit everything", async (t) => {
  const { sql } = await testDatabase(t);
  await createWebhookWith(sql);
  const inTransaction = (publish: PublishFunction, end: "commit" | "rollback") =>
    sql
      .begin(async (tx) => {
        await publishBy(publish, tx);
        if (end === "rollback") throw new Error("undo");
      })
      .catch((error: Error) => error.message);
  for (const publish of PUBLISH_FUNCTIONS) {
    t.equal(await inTransaction(publish, "rollback"), "undo");
    t.strictSame(await written(sql), NOTHING, publish);
  }
  for (const publish of PUBLISH_FUNCTIONS) await inTransaction(publish, "commit");
  t.strictSame(await written(sql), { ...NOTHING, events: 3, envelopes: 3, deliveries: 1 });
});

void t.test("a refused webhook_publish_tx takes the caller's work back with it", async (t) => {
  const { sql } = await testDatabase(t);
  await sql`create table app_rows (n integer)`;
  await sql.unsafe(`
    create function tg_app_rows__publish() returns trigger language plpgsql as $$
    begin
      perform webhook_publish_tx('email.snet', 'user_1', '{}');
      return new;
    end $$;
    create trigger publish after insert on app_rows
      for each row execute function tg_app_rows__publish()`);
  const insert = sql`insert into app_rows values (1)`;
  await refused(t, insert, { code: "WH002", says: "'email.snet'" });
  t.equal((await sql`select from app_rows`).count, 0);
});

void t.test("best effort survives failures that are not the arguments' fault", async (t) => {
  const { sql, url, session } = await testDatabase(t);
  await sql`create table app_rows (n integer)`;
  const attempt = async (one: AnySql, n: number) => {
    await one`begin`;
    await one`insert into app_rows values (${n})`;
    const id = await publishBy("webhook_publish_best_effort_tx", one, { data: { n } });
    await one`commit`;
    return id;
  };
  const plain = session();
  await sql`alter table webhookpub.events rename to events_gone`;
  t.equal(await attempt(plain, 1), null);
  await sql`alter table webhookpub.events_gone rename to events`;

  const locker = session();
  await locker`begin`;
  await locker`lock table webhookpub.events in access exclusive mode`;
  await plain`set lock_timeout = '10ms'`;
  t.equal(await attempt(plain, 2), null);
  await locker`rollback`;

  const failures = await sql`
    select sqlstate, data from webhookpub.publish_failures order by id`;
  t.strictSame(
    [...failures],
    [
      { sqlstate: "42P01", data: { n: 1 } },
      { sqlstate: "55P03", data: { n: 2 } },
    ],
  );
  t.equal((await sql`select from webhookpub.events`).count, 0, "no half of an event stays");

  const watched = noticeSession(t, url);
  await sql`alter table webhookpub.publish_failures rename to publish_failures_gone`;
  await sql`alter table webhookpub.events rename to events_gone`;
  t.equal(await attempt(watched.sql, 3), null);
  const [warning, ...more] = watched.warnings();
  t.match(warning, /email\.sent.*user_1.*events.*42P01.*publish_failures/, "both are told");
  t.strictSame(more, []);
  t.equal((await sql`select from app_rows`).count, 3, "every caller committed");
});

void t.test("in a read-only transaction best effort warns, and the caller commits", async (t) => {
  const { sql, url } = await testDatabase(t);
  await createWebhookWith(sql);
  const watched = noticeSession(t, url);
  for (const publish of ["webhook_publish_best_effort_tx", "webhook_publish"] as const) {
    await watched.sql`begin read only`;
    t.equal(await publishBy(publish, watched.sql), null);
    t.match(
      await watched.sql`select 1 as alive`,
      [{ alive: 1 }],
      "the transaction is not poisoned",
    );
    t.match((await watched.sql`commit`).command, "COMMIT");
    t.match(watched.warnings(), [/email\.sent.*25006/], `${publish}: a WARNING`);
  }
  t.strictSame(await written(sql), NOTHING);
});

// The direct path ---------------------------------------------------------------------

void t.test(
  "webhook_publish inserts the deliveries at once, and an event that says so",
  async (t) => {
    const { sql } = await testDatabase(t);
    const matching = await createWebhookWith(sql);
    const labelled = await createWebhookWith(sql, { p_filters: '{"labels": ["vip"]}' });
    await createWebhookWith(sql, { p_filters: '{"labels": ["other"]}' });
    await createWebhookWith(sql, { p_user_id: "user_2", p_events: "{*}" });

    const id = await publishBy("webhook_publish", sql, {
      message_id: "msg_1",
      agent_id: "agent_1",
      labels: ["vip"],
      data: '{"n": 1}',
    });
    const deliveries = await sql`
    select webhook_id, event_id, event_type, message_id, status, attempts, replay_id
    from webhookpub.deliveries
    order by webhook_id`;
    t.strictSame(
      [...deliveries],
      [matching.id, labelled.id].toSorted().map((webhook_id) => ({
        webhook_id,
        event_id: id,
        event_type: "email.sent",
        message_id: "msg_1",
        status: "pending",
        attempts: 0,
        replay_id: null,
      })),
    );
    t.strictSame(await written(sql), { ...NOTHING, events: 1, envelopes: 1, deliveries: 2 });
    t.match(await sql`select status, attempts, matched_webhook_ids from webhookpub.events`, [
      {
        status: "processed",
        attempts: 1,
        matched_webhook_ids: [matching.id, labelled.id].toSorted(),
      },
    ]);
    t.equal((await sql`select from webhookpub.explain_event(${id})`).count, 3);
    const [row] = await sql`select envelope from webhookpub.envelopes_by_event`;
    t.match(row?.["envelope"], '"data": {"n": 1}');

    await sql`select webhookpub.wake()`;
    const jobs = await sql`
    select key from graphile_worker.jobs where task_identifier = 'webhook_deliver' order by key`;
    t.strictSame(
      jobs.map((job) => job["key"]),
      [matching.id, labelled.id].toSorted(),
      "the next tick finds them",
    );
  },
);

void t.test("webhook_publish leaves no delivery when nobody listens, but an event", async (t) => {
  const { sql, url } = await testDatabase(t);
  await createWebhookWith(sql, { p_events: "{email.received}" });
  const watched = noticeSession(t, url);
  t.equal(await publishBy("webhook_publish", watched.sql, { event_id: "alone" }), "alone");
  t.strictSame(watched.warnings(), []);
  t.strictSame(await written(sql), { ...NOTHING, events: 1, envelopes: 1 });
  t.match(await sql`select status from webhookpub.events`, [{ status: "no_match" }]);
});

// Nobody waits ------------------------------------------------------------------------

void t.test("publishers, fan-outs and operators do not make publishers wait", async (t) => {
  const { sql, session } = await testDatabase(t);
  const webhook = await createWebhookWith(sql);
  await publishTx(sql, { event_id: "before" });
  const [a, b, fanOut, operator] = [session(), session(), session(), session()];
  // With everybody else idle in a transaction, any wait at all would be for ever.
  for (const one of [a, b]) await one`set lock_timeout = '2s'`;
  for (const one of [a, b, fanOut, operator]) await one`begin`;
  await fanOut`select webhookpub.fan_out()`;
  await operator`update webhookpub.settings set request_timeout = '10 s'`;
  await operator`select webhookpub.update_webhook(${webhook.id}, p_description => 'new')`;
  await operator`insert into webhookpub.event_types (name) values ('order.paid')`;

  const shared = { agent_id: "agent_1", conversation_id: "conv_1", labels: ["x"] };
  for (const publish of PUBLISH_FUNCTIONS) {
    for (const [one, n] of [
      [a, 1],
      [b, 2],
      [b, 3],
      [a, 4],
    ] as const) {
      const id = `${publish}-${n}`;
      t.equal(
        await publishBy(publish, one, { ...shared, message_id: "msg_1", event_id: id }),
        id,
        `${publish}: ${n}`,
      );
    }
  }
  t.match(await b`commit`, { command: "COMMIT" });
  t.match(await a`commit`, { command: "COMMIT" });
  for (const one of [fanOut, operator]) await one`commit`;
  const done = await written(sql);
  t.strictSame(done, { ...done, events: 1 + 12, envelopes: 1 + 12, deliveries: 1 + 4 });
});

void t.test("the same ids in opposite orders: one waits, nobody is lost", async (t) => {
  const { sql, session } = common;
  const [a, b] = [session(), session()];
  const pid = await backendOf(b);
  await a`begin`;
  await b`begin`;
  await publishTx(a, { event_id: "one" });
  await publishTx(a, { event_id: "two" });
  const waiting = publishTx(b, { event_id: "two" });
  await untilBlocked(sql, pid);
  await a`commit`;
  t.equal(await waiting, "two");
  t.equal(await publishTx(b, { event_id: "one" }), "one");
  await b`commit`;
  const events = await sql`select from webhookpub.events where id in ('one', 'two')`;
  t.equal(events.count, 2);
});

// The wake-up -------------------------------------------------------------------------

void t.test("publishing notifies only while no fan-out is awake, and adds no job", async (t) => {
  const { sql, session } = await testDatabase(t);
  await createWebhookWith(sql);
  const heard: string[] = [];
  let mark: (payload: string) => void = () => {};
  const listener = session();
  await listener.listen("webhook_events_new", (payload) => {
    if (payload === "") heard.push("event");
    else mark(payload);
  });
  const publisher = session();
  const fanOut = session();
  // Notifications come in the order of their commits: after the mark, all are in.
  const notificationsOf = async (work: () => Promise<unknown>) => {
    heard.length = 0;
    await work();
    const marked = new Promise((resolve) => (mark = resolve));
    await publisher`select pg_notify('webhook_events_new', 'mark')`;
    await marked;
    return heard.length;
  };

  for (const publish of PUBLISH_FUNCTIONS) {
    const one = () => publishBy(publish, publisher);
    t.equal(await notificationsOf(one), 1, `${publish}: nobody awake`);
    t.equal(
      await notificationsOf(() =>
        publisher
          .begin(async (tx) => {
            await publishBy(publish, tx);
            throw new Error("undo");
          })
          .catch(() => {}),
      ),
      0,
      `${publish}: rolled back`,
    );
    t.match(await fanOut`select webhookpub.enter_fan_out() as entered`, [{ entered: true }]);
    t.equal(await notificationsOf(one), 0, `${publish}: a fan-out is awake`);
    await fanOut`select webhookpub.leave_fan_out()`;
    t.equal(await notificationsOf(one), 1, `${publish}: it sleeps again`);
    t.equal((await written(sql)).jobs, 0, `${publish}: no job`);
  }

  const dies = session();
  const pid = await backendOf(dies);
  await dies`select webhookpub.enter_fan_out()`;
  await sql`select pg_terminate_backend(${pid}, 60000)`;
  t.equal(await notificationsOf(() => publishTx(publisher)), 1, "a fan-out that died is not awake");

  // While one is about to notify, others need not; but if it takes its time, they do.
  const slow = session();
  await slow`begin`;
  await publishTx(slow);
  await until(
    async () =>
      (await notificationsOf(
        () => publisher`
          with noted as materialized (
            select setval('webhookpub.notified_at', (extract(epoch from clock_timestamp()) * 1000)::bigint)
          )
          select webhook_publish_tx('email.sent', 'user_1', '{}') from noted`,
      )) === 0,
    "a publisher that leaves it to the other",
  );
  await sql`select setval('webhookpub.notified_at', 0)`;
  t.equal(await notificationsOf(() => publishTx(publisher)), 1, "the other is late");
  await sql`
    select setval(
      'webhookpub.notified_at', (extract(epoch from now() + interval '1 day') * 1000)::bigint
    )`;
  t.equal(await notificationsOf(() => publishTx(publisher)), 1, "the clock was set back");
  t.equal(await notificationsOf(() => slow`commit`), 1);
});

void t.test("an open transaction that has published keeps no fan-out from waking", async (t) => {
  const { sql, session } = await testDatabase(t);
  await createWebhookWith(sql);
  const [publisher, fanOut] = [session(), session()];
  await publisher`begin`;
  for (const publish of PUBLISH_FUNCTIONS) await publishBy(publish, publisher);
  await fanOut`set lock_timeout = '2s'`;
  t.match(await fanOut`select webhookpub.enter_fan_out() as entered`, [{ entered: true }]);
  await publisher`commit`;
  t.equal((await written(sql)).events, 3);
});
