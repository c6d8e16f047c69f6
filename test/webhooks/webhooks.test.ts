import postgres from "postgres";
import { Webhook } from "standardwebhooks";
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { CLOSED_URLS } from "../support/closed_urls.ts";
import { testDatabase } from "../support/database.ts";
import { type AnySql, type Arguments, named } from "../support/named.ts";
import { noticeSession } from "../support/notices.ts";
import { refused } from "../support/refused.ts";
import { publishBy } from "../support/publish.ts";
import { createWebhookWith } from "../support/webhook.ts";
import { backendOf, untilBlocked } from "../support/waiting.ts";
import { leaseRequests } from "../support/leases.ts";

/** For tests that look only at webhooks of their own; the others have a database, too. */
const common = await testDatabase(t);

const update = (sql: AnySql, id: string | null, args: Arguments) =>
  sql`select webhookpub.update_webhook(${named(sql, { p_webhook_id: id, ...args })})`;

/** Everything that steering may change about webhooks, to compare before and after. */
async function state(sql: Sql): Promise<unknown> {
  const [row] = await sql`
    select
      (select json_agg(w order by w.id) from webhookpub.webhooks as w) as webhooks,
      (select json_agg(s order by s.id) from webhookpub.secrets as s) as secrets,
      (select count(*)::integer from graphile_worker.jobs) as jobs`;
  return row;
}

async function webhookRow(sql: Sql, id: string): Promise<Record<string, unknown>> {
  const [row] = await sql`
    select to_jsonb(w) as webhook from webhookpub.webhooks as w where w.id = ${id}`;
  return row?.["webhook"] as Record<string, unknown>;
}

const publishTx = (sql: Sql) => publishBy("webhook_publish_tx", sql);

const text = (length: number) => "x".repeat(length);
const times = <T>(count: number, item: (i: number) => T): T[] =>
  Array.from({ length: count }, (_, i) => item(i));

// Creating ----------------------------------------------------------------------------

void t.test(
  "a new webhook has the defaults of the contract, and a secret shown once",
  async (t) => {
    const { sql } = await testDatabase(t);
    const webhook = await createWebhookWith(sql);
    t.match(webhook.id, /^wh_[0-9a-f]{32}$/);
    t.match(webhook.secret, /^whsec_[A-Za-z0-9+/]{43}=$/, "the base64 of 32 bytes");
    t.match(await webhookRow(sql, webhook.id), {
      user_id: "user_1",
      url: "https://receiver.example/",
      description: "",
      events: ["email.*"],
      filters: {},
      headers: {},
      signature_scheme: "standard",
      enabled: true,
      disabled_at: null,
      disabled_reason: null,
      max_in_flight: 20,
      request_timeout: null,
      last_delivered_at: null,
      deleted_at: null,
      retry_schedule: [
        "00:01:00",
        "00:05:00",
        "00:15:00",
        "01:00:00",
        "04:00:00",
        "08:00:00",
        "16:00:00",
      ],
    });
    const other = await createWebhookWith(sql);
    t.not(other.id, webhook.id);
    t.not(other.secret, webhook.secret);

    const tables = await sql<{ name: string }[]>`
    select c.oid::regclass::text as name
    from pg_class as c
    where c.relnamespace = 'webhookpub'::regnamespace and c.relkind in ('r', 'v')
      and not c.relispartition`;
    for (const { name } of tables) {
      const found = await sql.unsafe(
        `select from ${name} as x where strpos(x::text, '${webhook.secret}') > 0`,
      );
      t.equal(found.count, name === "webhookpub.secrets" ? 1 : 0, `the secret in ${name}`);
    }
  },
);

void t.test("a webhook keeps what it is given", async (t) => {
  const { sql } = common;
  const { id } = await createWebhookWith(sql, {
    p_events: times(50, (i) => (i === 0 ? "*" : `email.type_${i}`)),
    p_filters: {
      agent_ids: times(50, (i) => (i === 0 ? text(200) : `agent_${i}`)),
      conversation_ids: null,
      labels: [],
      data: "$.amount > 100",
    },
    p_description: "Grüße",
    p_headers: { Authorization: "Bearer x", "X-Tenant_1": "" },
    p_signature_scheme: "stripe",
    p_max_in_flight: 1000,
    p_retry_schedule: "{1 s,7 days}",
    p_request_timeout: "30 seconds",
  });
  const row = await webhookRow(sql, id);
  t.match(row, {
    description: "Grüße",
    headers: { authorization: "Bearer x", "x-tenant_1": "" },
    signature_scheme: "stripe",
    max_in_flight: 1000,
    retry_schedule: ["00:00:01", "7 days"],
    request_timeout: "00:00:30",
    filters: { conversation_ids: null, labels: [], data: "$.amount > 100" },
  });
  t.equal((row["events"] as unknown[]).length, 50);
  const none = await createWebhookWith(sql, { p_retry_schedule: "{}" });
  t.strictSame((await webhookRow(sql, none.id))["retry_schedule"], [], "one attempt only");
});

// Refusals ----------------------------------------------------------------------------

interface BadDefinition {
  readonly why: string;
  /** As create_webhook names them. */
  readonly args: Arguments;
  readonly code: string;
  readonly says: string | RegExp;
}

const bad = (code: string, why: string, args: Arguments, says: string | RegExp): BadDefinition => ({
  why,
  args,
  code,
  says,
});

const LIST_FILTERS = ["agent_ids", "conversation_ids", "labels"];

const BAD_EVENTS = (
  [
    ["no entry", [], "at least one entry"],
    ["an empty entry", [""], "''"],
    ["a null entry", ["email.sent", null], "null"],
    ["a single word", ["email"], "'email'"],
    ["capitals", ["Email.sent"], "'Email.sent'"],
    ["a trailing dot", ["email."], "'email.'"],
    ["a leading dot", [".sent"], "'.sent'"],
    ["two dots", ["email..sent"], "'email..sent'"],
    ["a star in front", ["*.sent"], "'*.sent'"],
    ["a star in the middle", ["email.*.bounced"], "'email.*.bounced'"],
    ["a star without a dot", ["email*"], "'email*'"],
    ["a half word", ["email.se*"], "'email.se*'"],
    ["two stars", ["**"], "'**'"],
    ["only the wrong one of two is named", ["email.sent", "email sent"], "'email sent'"],
    ["a blank behind", ["email.sent "], "'email.sent '"],
    ["a line break behind", ["email.sent\n"], "email.sent\n"],
    ["an SQL pattern", ["email.%"], "'email.%'"],
    ["51 entries", times(51, (i) => `email.type_${i}`), "at most 50"],
    ["an entry of 201 characters", [`email.${text(195)}`], "email.xxx"],
    ["a nested list", "{{email.sent},{email.received}}", "flat list"],
  ] as const
).map(([why, p_events, says]) => bad("WH010", `events: ${why}`, { p_events }, says));

const BAD_FILTERS = (
  [
    ["a list", "[]", "object"],
    ["a text", '"labels"', "object"],
    ["a JSON null", "null", "object"],
    ["an unknown key", { label: ["vip"] }, "'label'"],
    ["an unknown key that is null", { Labels: null }, "'Labels'"],
    ["an unknown key beside a known one", { labels: ["vip"], user_ids: [] }, "'user_ids'"],
    ["an empty key", { "": [] }, "''"],
    ["data that is no path", { data: "amount >" }, /amount >.*jsonpath/],
    ["data that is half a path", { data: "$.amount > > 1" }, "jsonpath"],
    ["empty data", { data: "" }, "data must be"],
    ["data that is an object", { data: { amount: 1 } }, "data must be"],
    ["data that is a boolean", { data: true }, "data must be"],
    ["an overlong path", { data: `$.a == "${text(2000)}"` }, "data must be"],
    ...LIST_FILTERS.flatMap(
      (key) =>
        [
          [`${key}: a text`, { [key]: "a" }, `${key} must be a list`],
          [`${key}: an object`, { [key]: {} }, `${key} must be a list`],
          [`${key}: false`, { [key]: false }, `${key} must be a list`],
          [`${key}: an empty entry`, { [key]: ["a", ""] }, `"" of ${key}`],
          [`${key}: a null entry`, { [key]: ["a", null] }, `null of ${key}`],
          [`${key}: a number`, { [key]: [1] }, `1 of ${key}`],
          [`${key}: a nested list`, { [key]: [["a"]] }, `["a"] of ${key}`],
          [`${key}: 201 characters`, { [key]: [text(201)] }, `of ${key}`],
          [`${key}: 51 entries`, { [key]: times(51, String) }, `${key} may have at most 50`],
        ] as const,
    ),
  ] as const
).map(([why, p_filters, says]) => bad("WH010", `filters: ${why}`, { p_filters }, says));

const BAD_NUMBERS = (
  [
    ["an overlong description", { p_description: text(1001) }, "1000 characters"],
    ["nothing in flight", { p_max_in_flight: 0 }, "max_in_flight 0"],
    ["less than nothing in flight", { p_max_in_flight: -1 }, "max_in_flight -1"],
    ["too much in flight", { p_max_in_flight: 1001 }, "max_in_flight 1001"],
    ["no time at all", { p_request_timeout: "0" }, /request_timeout 00:00:00/],
    ["a negative timeout", { p_request_timeout: "-1 s" }, "request_timeout -00:00:01"],
    ["over 30 s", { p_request_timeout: "30.001 s" }, "request_timeout 00:00:30.001"],
    ["a pause of nothing", { p_retry_schedule: "{1 min,0}" }, "00:01:00,00:00:00"],
    ["a negative pause", { p_retry_schedule: "{-1 min}" }, "-00:01:00"],
    ["a null pause", { p_retry_schedule: "{1 min,null}" }, "NULL"],
    ["a pause over 7 days", { p_retry_schedule: "{8 days}" }, "8 days"],
    ["51 pauses", { p_retry_schedule: `{${times(51, () => "1 s").join()}}` }, "at most 50"],
    ["a nested schedule", { p_retry_schedule: "{{1 s},{2 s}}" }, "retry_schedule"],
  ] as const
).map(([why, args, says]) => bad("WH010", why, args, says));

const OWN_HEADERS = [
  "Host",
  "host",
  "Connection",
  "Keep-Alive",
  "Content-Type",
  "content-length",
  "Content-Encoding",
  "Transfer-Encoding",
  "TE",
  "Trailer",
  "Upgrade",
  "Expect",
  "Proxy-Authorization",
  "proxy-connection",
  "X-Forwarded-For",
  "x-forwarded-host",
  "webhook-id",
  "Webhook-Signature",
  "webhook-anything",
  "X-Webhook-Signature",
  "User-Agent",
  "Accept-Encoding",
].map((name) => bad("WH012", `header ${name}`, { p_headers: { [name]: "x" } }, `'${name}'`));

const BAD_HEADERS = (
  [
    ["a list", "[]", "object"],
    ["a JSON null", "null", "object"],
    ["a text", '"a: b"', "object"],
    ["an empty name", { "": "x" }, "''"],
    ["a blank in a name", { "x y": "x" }, "'x y'"],
    ["a colon in a name", { "x:": "x" }, "'x:'"],
    ["a line break in a name", { "x\r\nhost": "x" }, "host"],
    ["a name that is not ASCII", { "x-ü": "x" }, "'x-ü'"],
    ["an overlong name", { [text(101)]: "x" }, text(100)],
    ["a number", { "x-a": 1 }, "'x-a'"],
    ["a null", { "x-a": null }, "'x-a'"],
    ["a list of values", { "x-a": ["x"] }, "'x-a'"],
    ["a line break in a value", { "x-a": "secret-credential\r\nhost: x" }, "'x-a'"],
    ["a value with a tab", { "x-a": "secret-credential\t" }, "'x-a'"],
    ["a value that is not ASCII", { "x-a": "secret-credential-ü" }, "'x-a'"],
    ["an overlong value", { "x-a": `secret-credential${text(2000)}` }, "'x-a'"],
    ["one name twice", '{"x-a": "1", "X-A": "2"}', "each name once"],
    ["21 headers", Object.fromEntries(times(21, (i) => [`x-${i}`, "x"])), "at most 20"],
  ] as const
).map(([why, p_headers, says]) => bad("WH012", `headers: ${why}`, { p_headers }, says));

/** What is wrong whether a webhook is made or changed. */
const BAD = [...BAD_EVENTS, ...BAD_FILTERS, ...BAD_NUMBERS, ...OWN_HEADERS, ...BAD_HEADERS];

/** What only create_webhook can be given: null leaves a value as it is in an update. */
const BAD_WHEN_NEW = [
  bad("WH005", "no user", { p_user_id: null }, "null"),
  bad("WH005", "an empty user", { p_user_id: "" }, "''"),
  bad("WH005", "an overlong user", { p_user_id: text(201) }, text(40)),
  bad("WH011", "no URL", { p_url: null }, "null"),
  bad("WH010", "no events", { p_events: null }, "null"),
  bad("WH010", "filters null", { p_filters: null }, "null"),
  bad("WH010", "description null", { p_description: null }, "description"),
  bad("WH012", "headers null", { p_headers: null }, "headers"),
  bad("WH010", "scheme null", { p_signature_scheme: null }, "null"),
  bad("WH010", "an unknown scheme", { p_signature_scheme: "hmac" }, "'hmac'"),
  bad("WH010", "a scheme in capitals", { p_signature_scheme: "Standard" }, "'Standard'"),
  bad("WH010", "max_in_flight null", { p_max_in_flight: null }, "null"),
];

void t.test("an invalid definition is refused when it is written, and nothing is", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhookWith(sql, { p_headers: { "x-old": "x" } });
  const before = await state(sql);
  for (const { why, args, code, says } of [...BAD, ...BAD_WHEN_NEW]) {
    await refused(t, createWebhookWith(sql, args), { code, says }, `create, ${why}`);
  }
  for (const { why, args, code, says } of BAD) {
    // With a valid change beside it: that one must not stay either.
    const both = { p_description: "changed", ...args };
    await refused(t, update(sql, id, both), { code, says }, `update, ${why}`);
  }
  t.strictSame(await state(sql), before, "nothing is written");
});

void t.test("a refused header never shows its value: it may be a credential", async (t) => {
  const { sql } = common;
  for (const { why, args } of [
    ...BAD_HEADERS,
    bad("WH012", "own header", { p_headers: { host: "secret-credential" } }, ""),
    bad("WH012", "bad name", { p_headers: { "a b": "secret-credential" } }, ""),
  ]) {
    const error: unknown = await createWebhookWith(sql, args).catch((thrown: unknown) => thrown);
    if (!(error instanceof postgres.PostgresError)) t.fail(`${why}: it was not refused`);
    else
      for (const said of [error.message, error.detail, error.hint, error.where]) {
        t.notMatch(said ?? "", "secret-credential", why);
      }
  }
});

void t.test("an entry that matches no type of the catalog is a WARNING", async (t) => {
  const { url } = common;
  const watched = noticeSession(t, url);
  await createWebhookWith(watched.sql, { p_events: ["email.sent", "order.*"] });
  t.match(watched.warnings(), [/'order\.\*'/], "the host may add it later");
  await createWebhookWith(watched.sql, {
    p_events: ["*", "email.*", "email.sent", "webhook.disabled"],
  });
  t.strictSame(watched.warnings(), []);
});

// URLs --------------------------------------------------------------------------------

/** What is wrong with a URL that has nothing to do with its address. */
const MALFORMED: readonly [why: string, url: string][] = [
  ["nothing", ""],
  ["no scheme", "receiver.example/hook"],
  ["no scheme, but slashes", "//receiver.example/hook"],
  ["http", "http://receiver.example/hook"],
  ["HTTP", "HTTP://receiver.example/hook"],
  ["ftp", "ftp://receiver.example/hook"],
  ["ws", "wss://receiver.example/hook"],
  ["file", "file:///etc/passwd"],
  ["javascript", "javascript:alert(1)"],
  ["data", "data:text/plain,x"],
  ["gopher", "gopher://receiver.example/"],
  ["one slash", "https:/receiver.example/hook"],
  ["no slash", "https:receiver.example/hook"],
  ["three slashes", "https:///receiver.example/hook"],
  ["no host", "https://"],
  ["no host, but a path", "https:///"],
  ["no host, but a query", "https://?receiver.example"],
  ["no host, but a fragment", "https://#receiver.example"],
  ["no host, but a port", "https://:443/"],
  ["a user", "https://user@receiver.example/"],
  ["a user and a password", "https://user:password@receiver.example/"],
  ["an empty user", "https://@receiver.example/"],
  ["empty credentials", "https://:@receiver.example/"],
  ["an address behind a user", "https://receiver.example@127.0.0.1/"],
  ["a user behind a fragment sign", "https://receiver.example:443@127.0.0.1#/"],
  ["port 80", "https://receiver.example:80/"],
  ["port 8443", "https://receiver.example:8443/"],
  ["port 0", "https://receiver.example:0/"],
  ["port 22 of an address", "https://8.8.8.8:22/"],
  ["port 65979, which is 443 in 16 bits", "https://receiver.example:65979/"],
  ["a port of six digits", "https://receiver.example:000443/"],
  ["a negative port", "https://receiver.example:-443/"],
  ["a port in letters", "https://receiver.example:https/"],
  ["two ports", "https://receiver.example:443:443/"],
  ["a blank in front", " https://receiver.example/"],
  ["a blank behind", "https://receiver.example/ "],
  ["a blank in the host", "https://receiver .example/"],
  ["a blank in the path", "https://receiver.example/a b"],
  ["a tab in the scheme", "ht\ttps://receiver.example/"],
  ["a tab in the host", "https://receiver\t.example/"],
  ["a line break behind", "https://receiver.example/\n"],
  ["a line break in the host", "https://127.0.0\n.1/"],
  ["a header in the path", "https://receiver.example/\r\nhost: other.example"],
  ["a control character", "https://receiver.example/\u0001"],
  ["DEL", "https://receiver.example/\u007f"],
  ["a backslash for a slash", "https:\\\\receiver.example/"],
  ["a backslash before a user", "https://receiver.example\\@127.0.0.1/"],
  ["a backslash in the path", "https://receiver.example/a\\b"],
  ["a name that is not ASCII", "https://bücher.example/"],
  ["an invisible character", "https://local\u00adhost/"],
  ["a fullwidth dot", "https://127\uff0e0\uff0e0\uff0e1/"],
  ["a percent-encoded name", "https://%6c%6f%63alhost/"],
  ["an empty label", "https://receiver..example/"],
  ["a leading dot", "https://.receiver.example/"],
  ["only a dot", "https://./"],
  ["a leading hyphen", "https://-receiver.example/"],
  ["a trailing hyphen", "https://receiver-.example/"],
  ["a star", "https://*.example/"],
  ["an overlong label", `https://${text(64)}.example/`],
  ["a name that ends in a number", "https://receiver.example.1/"],
  ["a name that ends in a hexadecimal number", "https://receiver.0x1/"],
  ["a number over 255", "https://8.8.8.256/"],
  ["five numbers", "https://8.8.8.8.8/"],
  ["an open bracket", "https://[2606:4700::1111/"],
  ["a closed bracket", "https://2606:4700::1111]/"],
  ["no brackets", "https://2606:4700::1111/"],
  ["empty brackets", "https://[]/"],
  ["IPv4 in brackets", "https://[8.8.8.8]/"],
  ["a name in brackets", "https://[receiver.example]/"],
  ["something behind the bracket", "https://[2606:4700::1111]x/"],
  ["something before the bracket", "https://x[2606:4700::1111]/"],
  ["IPv6 with three colons", "https://[2606:::1111]/"],
  ["IPv6 with a future version", "https://[v1.x]/"],
  ["2001 characters", `https://receiver.example/${text(1976)}`],
];

const PUBLIC = [
  "https://receiver.example",
  "https://receiver.example/",
  "HTTPS://Receiver.Example/Hook",
  "https://receiver.example:443/hook?a=b&c=%20#frag",
  "https://receiver.example?x",
  "https://receiver.example/user@example",
  "https://receiver.example/http://127.0.0.1:80/",
  "https://receiver.example.",
  "https://my_hook.re-ceiver.example/",
  "https://xn--bcher-kva.example/",
  "https://127.0.0.1.receiver.example/",
  "https://1password.example/",
  "https://localhost.example/",
  "https://notlocalhost/",
  "https://8.8.8.8/",
  "https://8.8.8.8:443/",
  "https://172.15.255.255/",
  "https://172.32.0.0/",
  "https://100.128.0.1/",
  "https://169.253.1.1/",
  "https://[2606:4700:4700::1111]/",
  "https://[2606:4700:4700::1111]:443/",
  `https://receiver.example/${text(1975)}`,
];

/** How a message quotes a URL. */
function quoted(url: string): string {
  const shown = url.slice(0, 200);
  return shown.includes("\\") ? `E'${shown.replaceAll("\\", "\\\\")}'` : `'${shown}'`;
}

const shipped = (sql: Sql) =>
  sql`update webhookpub.settings set allow_http = default, allowed_networks = default`;

void t.test("by default only public https URLs are allowed, in whatever notation", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhookWith(sql);
  await shipped(sql);
  const before = await state(sql);
  const refuse = async (why: string, url: string) =>
    refused(
      t,
      createWebhookWith(sql, { p_url: url }),
      { code: "WH011", says: quoted(url) },
      `${why}: ${url}`,
    );
  for (const { why, url } of CLOSED_URLS) await refuse(why, url);
  for (const [why, url] of MALFORMED) await refuse(why, url);
  const closed = update(sql, id, { p_url: "https://127.1/" });
  await refused(t, closed, { code: "WH011", says: "https://127.1/" }, "update");
  t.strictSame(await state(sql), before, "nothing is written");

  for (const url of PUBLIC) {
    const made = await createWebhookWith(sql, { p_url: url });
    t.equal((await webhookRow(sql, made.id))["url"], url, url.slice(0, 80));
  }
});

void t.test("what is allowed means the same to a client's parser", async (t) => {
  const { sql } = await testDatabase(t);
  await shipped(sql);
  await sql.unsafe(`
    create function url_is_allowed(url text) returns boolean language plpgsql as $$
    begin
      perform webhookpub.check_url(url);
      return true;
    exception when sqlstate 'WH011' then
      return false;
    end $$`);
  // Random URLs out of what parsers fall out over; always the same ones.
  let seed = 42;
  const pick = (list: readonly string[]): string => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return list[Math.floor((seed / 2 ** 32) * list.length)] ?? "";
  };
  const PIECES = [
    ["/", "\\", "@", ":", "?", "#", "[", "]", ".", "%", "-", "_", " ", "\t"],
    ["https://", "//", "user@", ":443", ":80", ":0443", "127.0.0.1", "10.0.0.1", "0x7f.1"],
    ["2130706433", "017700000001", "localhost", "receiver.example", "::1", "::ffff:7f00:1"],
    ["[::1]", "[2606:4700::1]", "8.8.8.8", "%31", "0", "a"],
  ].flat();
  const STARTS = ["https://", "https://receiver.example", "HTTPS://8.8.8.8", ""];
  const urls = times(5000, (i) => pick(STARTS) + times(i % 6, () => pick(PIECES)).join(""));
  const allowed = await sql<{ url: string }[]>`
    select distinct u.url from unnest(${urls}::text[]) as u (url) where url_is_allowed(u.url)`;
  t.ok(allowed.length > 100, `${allowed.length} of them are allowed`);
  for (const { url } of allowed) {
    if (!t.ok(URL.canParse(url), `${url} is a URL`)) continue;
    const { protocol, username, password, port, hostname } = new URL(url);
    t.strictSame([protocol, username, password, port], ["https:", "", "", ""], url);
    t.notMatch(hostname, /^(127|10|0)\.\d+\.\d+\.\d+$|^\[::|(^|\.)localhost\.?$/, `${url}: host`);
  }
});

interface Opening {
  readonly settings: { allow_http: boolean; allowed_networks: string };
  readonly open: readonly string[];
  readonly closed: readonly string[];
}

const OPENINGS: readonly Opening[] = [
  {
    settings: { allow_http: true, allowed_networks: "{}" },
    open: [
      "http://receiver.example/",
      "http://receiver.example:80/",
      "http://8.8.8.8/",
      "https://receiver.example:80/",
      "https://receiver.example/",
    ],
    closed: [
      "http://127.0.0.1/",
      "http://localhost/",
      "http://10.1.2.3/",
      "http://receiver.example:8080/",
      "https://receiver.example:8443/",
      "ftp://receiver.example/",
      "ws://receiver.example/",
      "http://user@receiver.example/",
    ],
  },
  {
    settings: { allow_http: false, allowed_networks: "{10.0.0.0/8,192.168.7.0/24}" },
    open: [
      "https://10.1.2.3/",
      "https://10.1.2.3:8443/",
      "https://10.255.255.255:1/",
      "https://192.168.7.9:65535/",
      "https://8.8.8.8/",
    ],
    closed: [
      "http://10.1.2.3/",
      "https://11.0.0.1:8443/",
      "https://192.168.8.1/",
      "https://127.0.0.1/",
      "https://172.16.0.1/",
      "https://10.1.2.3:0/",
      "https://10.1.2.3:65536/",
      "https://10.66051/",
      "https://0x0a010203/",
      "https://167838211/",
      "https://012.1.2.3/",
      "https://[::ffff:10.1.2.3]/",
      "https://[::10.1.2.3]/",
      "https://[2002:a01:203::1]/",
      "https://[64:ff9b::a01:203]/",
      "https://[fd00::1]/",
      "https://user@10.1.2.3/",
    ],
  },
  {
    settings: { allow_http: true, allowed_networks: "{127.0.0.1/32,fd00::/8}" },
    open: [
      "http://127.0.0.1:3000/",
      "https://127.0.0.1:3000/",
      "http://[fd12::1]:8080/",
      "https://[FD12::1]/",
    ],
    closed: [
      "http://127.0.0.2:3000/",
      "http://[::1]:3000/",
      "http://[fe80::1]/",
      "http://0.0.0.0/",
    ],
  },
];

void t.test("allow_http and allowed_networks open what they say, and nothing else", async (t) => {
  const { sql } = await testDatabase(t);
  for (const { settings, open, closed } of OPENINGS) {
    const { allow_http, allowed_networks } = settings;
    await sql`update webhookpub.settings set
      allow_http = ${allow_http}, allowed_networks = ${allowed_networks}`;
    const name = JSON.stringify(settings);
    for (const url of open) {
      t.ok(await createWebhookWith(sql, { p_url: url }), `${name}: ${url}`);
    }
    for (const url of closed) {
      const rule = { code: "WH011", says: quoted(url) };
      await refused(t, createWebhookWith(sql, { p_url: url }), rule, `${name}: ${url}`);
    }
  }
});

// How many ----------------------------------------------------------------------------

void t.test("a user has at most settings.max_webhooks_per_user webhooks", async (t) => {
  const { sql } = await testDatabase(t);
  const [row] = await sql`select max_webhooks_per_user as n from webhookpub.settings`;
  t.equal(row?.["n"], 100, "the default");
  await sql`update webhookpub.settings set max_webhooks_per_user = 3`;
  const made = await Promise.all(times(3, () => createWebhookWith(sql)));
  const tooMany = { code: "WH010", says: /'user_1' has 3 webhooks.* 3$/ };
  await refused(t, createWebhookWith(sql), tooMany);
  t.ok(await createWebhookWith(sql, { p_user_id: "user_2" }), "each user for itself");

  await sql`select webhookpub.disable_webhook(${made[0]?.id ?? ""})`;
  await refused(t, createWebhookWith(sql), tooMany, "a disabled one counts");
  await sql`select webhookpub.delete_webhook(${made[0]?.id ?? ""})`;
  t.ok(await createWebhookWith(sql), "a deleted one does not");
  await refused(t, createWebhookWith(sql), tooMany);

  await sql`update webhookpub.settings set max_webhooks_per_user = 1`;
  await refused(t, createWebhookWith(sql), { code: "WH010", says: /'user_1' has 3 .* 1$/ });
  const kept = made[1]?.id ?? "";
  await sql`select webhookpub.disable_webhook(${kept})`;
  await sql`select webhookpub.enable_webhook(${kept})`;
  t.match(await webhookRow(sql, kept), { enabled: true }, "a lowered limit takes nothing away");
});

void t.test("the limit holds when webhooks are created at the same time", async (t) => {
  const { sql, session } = await testDatabase(t);
  await sql`update webhookpub.settings set max_webhooks_per_user = 3`;
  const [first, second] = [session(), session()];
  const pid = await backendOf(second);
  await first`begin`;
  await createWebhookWith(first);
  const waiting = createWebhookWith(second).then(() => "created");
  await untilBlocked(sql, pid);
  t.ok(await createWebhookWith(sql, { p_user_id: "user_2" }), "nobody else waits");
  await first`commit`;
  t.equal(await waiting, "created");

  const outcomes = await Promise.allSettled(times(10, () => createWebhookWith(sql)));
  t.equal(outcomes.filter(({ status }) => status === "fulfilled").length, 1, "one was left");
  const [row] = await sql`
    select count(*)::integer as n from webhookpub.webhooks where user_id = 'user_1'`;
  t.equal(row?.["n"], 3);
});

// Changing ----------------------------------------------------------------------------

const CHANGES: readonly { args: Arguments; changed: Record<string, unknown> }[] = [
  { args: { p_url: "https://other.example/" }, changed: { url: "https://other.example/" } },
  { args: { p_events: ["email.sent"] }, changed: { events: ["email.sent"] } },
  {
    args: { p_filters: { labels: ["eu"], data: "$.n > 1" } },
    changed: {
      filters: { labels: ["eu"], data: "$.n > 1" },
      filter_labels: ["eu"],
      filter_data: '($."n" > 1)',
      filter_agent_ids: null,
    },
  },
  { args: { p_description: "" }, changed: { description: "" } },
  { args: { p_headers: { "X-New": "1" } }, changed: { headers: { "x-new": "1" } } },
  { args: { p_headers: {} }, changed: { headers: {} } },
  { args: { p_max_in_flight: 1 }, changed: { max_in_flight: 1 } },
  { args: { p_retry_schedule: "{2 s}" }, changed: { retry_schedule: ["00:00:02"] } },
  { args: { p_retry_schedule: "{}" }, changed: { retry_schedule: [] } },
  { args: { p_request_timeout: "3 s" }, changed: { request_timeout: "00:00:03" } },
];

void t.test("update_webhook changes what it is given and leaves the rest", async (t) => {
  const { sql } = common;
  for (const { args, changed } of [{ args: {}, changed: {} }, ...CHANGES]) {
    const { id } = await createWebhookWith(sql, {
      p_filters: { agent_ids: ["agent_1"] },
      p_headers: { "x-old": "x" },
      p_request_timeout: "7 s",
      p_max_in_flight: 7,
      p_retry_schedule: "{7 s}",
    });
    const before = await webhookRow(sql, id);
    const nulls = Object.fromEntries(
      CHANGES.flatMap((change) => Object.keys(change.args)).map((name) => [name, null]),
    );
    await update(sql, id, { ...nulls, ...args });
    t.strictSame(await webhookRow(sql, id), { ...before, ...changed }, JSON.stringify(args));
  }
});

void t.test("steering knows only webhooks that are there", async (t) => {
  const { sql } = common;
  const deleted = await createWebhookWith(sql);
  await sql`select webhookpub.delete_webhook(${deleted.id})`;
  const before = await state(sql);
  const steer: Record<string, (id: string | null) => PromiseLike<unknown>> = {
    update_webhook: (id) => update(sql, id, { p_description: "x" }),
    enable_webhook: (id) => sql`select webhookpub.enable_webhook(${id})`,
    disable_webhook: (id) => sql`select webhookpub.disable_webhook(${id})`,
    delete_webhook: (id) => sql`select webhookpub.delete_webhook(${id})`,
    rotate_secret: (id) => sql`select webhookpub.rotate_secret(${id})`,
  };
  for (const [name, call] of Object.entries(steer)) {
    for (const id of ["wh_nope", "", null]) {
      const says = id === null ? "null" : `'${id}'`;
      await refused(t, call(id), { code: "WH020", says }, `${name}(${says})`);
    }
    await refused(t, call(deleted.id), { code: "WH021", says: deleted.id }, `${name}, deleted`);
  }
  t.strictSame(await state(sql), before, "nothing is written");
});

// Disabling and enabling --------------------------------------------------------------

const lease = (sql: Sql, id: string) => leaseRequests(sql, [id]);

const deliveriesOf = (sql: Sql, id: string) => sql<{ status: string; attempts: number }[]>`
  select status, attempts from webhookpub.deliveries where webhook_id = ${id} order by id`;

void t.test("a disabled webhook's deliveries wait, burn no attempt, and go on", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhookWith(sql);
  await publishTx(sql);
  await sql`select webhookpub.fan_out()`;
  await sql`select webhookpub.disable_webhook(${id})`;
  await sql`select graphile_worker.complete_jobs(array(select j.id from graphile_worker.jobs as j))`;
  t.match(await webhookRow(sql, id), {
    enabled: false,
    disabled_reason: "manual",
    disabled_at: String,
  });
  t.equal((await lease(sql, id)).length, 0, "nothing is leased");
  await sql`select webhookpub.wake()`;
  t.equal(
    (await sql`select from graphile_worker.jobs where key <> 'webhook_maintain'`).count,
    0,
    "nobody is woken",
  );
  t.strictSame([...(await deliveriesOf(sql, id))], [{ status: "pending", attempts: 0 }]);
  await publishTx(sql);
  await sql`select webhookpub.fan_out()`;
  t.equal((await deliveriesOf(sql, id)).length, 1, "and it gets no new ones");

  await sql`select webhookpub.enable_webhook(${id})`;
  t.match(await webhookRow(sql, id), {
    enabled: true,
    disabled_reason: null,
    disabled_at: null,
  });
  t.match(
    [
      ...(await sql`select key, task_identifier as task from graphile_worker.jobs
        where key <> 'webhook_maintain'`),
    ],
    [{ key: id, task: "webhook_deliver" }],
    "a job goes on with them",
  );
  t.match(await lease(sql, id), [{ attempt: 1 }]);
});

void t.test("disabling again changes nothing, nor does enabling", async (t) => {
  const { sql } = common;
  const { id } = await createWebhookWith(sql);
  const enabled = await state(sql);
  await sql`select webhookpub.enable_webhook(${id})`;
  t.strictSame(await state(sql), enabled, "an enabled one stays as it is, and gets no job");
  await sql`select webhookpub.disable_webhook(${id}, 'unpaid')`;
  const disabled = await state(sql);
  t.match(await webhookRow(sql, id), { disabled_reason: "unpaid" });
  await sql`select webhookpub.disable_webhook(${id})`;
  t.strictSame(await state(sql), disabled, "the first reason and time stay");
  for (const reason of ["", null, text(201)]) {
    const says = reason === null ? "null" : `'${reason.slice(0, 40)}'`;
    const query = sql`select webhookpub.disable_webhook(${id}, ${reason})`;
    await refused(t, query, { code: "WH010", says });
  }
});

void t.test("enabling forgets the failures that led to it", async (t) => {
  const { sql } = common;
  const { id } = await createWebhookWith(sql);
  await sql`
    update webhookpub.webhooks
    set failing_since = now() - interval '80 hours', failures = 10
    where id = ${id}`;
  await sql`select webhookpub.disable_failing()`;
  t.match(await webhookRow(sql, id), { enabled: false, disabled_reason: "failing" });
  await sql`select webhookpub.enable_webhook(${id})`;
  t.match(await webhookRow(sql, id), { enabled: true, failing_since: null, failures: 0 });
  await sql`select webhookpub.disable_failing()`;
  t.match(await webhookRow(sql, id), { enabled: true }, "it is not disabled again at once");
});

// Deleting ----------------------------------------------------------------------------

void t.test("deleting cancels what is pending, erases secrets and keeps history", async (t) => {
  const { sql } = await testDatabase(t);
  const { id } = await createWebhookWith(sql, {
    p_headers: { authorization: "secret-credential" },
  });
  const other = await createWebhookWith(sql);
  await Promise.all(times(3, () => publishTx(sql)));
  await sql`select webhookpub.fan_out()`;
  const [first, ...others] = await lease(sql, id);
  t.equal(others.length, 2);
  await sql`
    select webhookpub.record_attempts(
      ${[first?.delivery_id ?? ""]}, '{1}', array[now()], '{5}', '{responded}', '{200}',
      '{null}', '{ok}', '{null}')`;
  await publishTx(sql);
  await sql`select webhookpub.fan_out()`;
  const before = await webhookRow(sql, id);

  await sql`select webhookpub.delete_webhook(${id})`;
  t.match(await webhookRow(sql, id), {
    url: before["url"],
    enabled: false,
    disabled_reason: "deleted",
    deleted_at: String,
    disabled_at: String,
  });
  const statuses = (await deliveriesOf(sql, id)).map(({ status }) => status);
  t.strictSame(statuses.toSorted(), ["cancelled", "cancelled", "cancelled", "delivered"]);
  const [history] = await sql`
    select
      (select count(*)::integer from webhookpub.attempts) as attempts,
      (select count(*)::integer from webhookpub.events) as events,
      (select count(*)::integer from webhookpub.envelopes_by_event) as envelopes`;
  t.strictSame({ ...history }, { attempts: 1, events: 4, envelopes: 4 });
  const secrets = await sql`select webhook_id from webhookpub.secrets`;
  t.strictSame([...secrets], [{ webhook_id: other.id }]);
  const row = JSON.stringify(await webhookRow(sql, id));
  t.notMatch(row, "secret-credential", "the receiver's credentials are gone, too");

  t.equal((await lease(sql, id)).length, 0);
  t.equal((await deliveriesOf(sql, other.id)).length, 4, "another webhook is not touched");
  t.ok((await deliveriesOf(sql, other.id)).every(({ status }) => status === "pending"));
  await sql`
    select webhookpub.record_attempts(
      ${others.map((one) => one.delivery_id)}, '{1,1}', array[now(), now()], '{5,5}',
      '{responded,responded}', '{200,500}', '{null,null}', '{ok,no}', '{null,null}')`;
  t.strictSame(
    (await deliveriesOf(sql, id)).map(({ status }) => status).toSorted(),
    statuses.toSorted(),
    "an answer that comes later changes nothing",
  );
});

// Rotating ----------------------------------------------------------------------------

const secretsOf = (sql: Sql, id: string) => sql<{ secret: string; current: boolean }[]>`
  select secret, expires_at is null as current
  from webhookpub.secrets
  where webhook_id = ${id}
  order by id`;

async function rotate(sql: AnySql, id: string, args: Arguments = {}): Promise<string> {
  const [row] = await sql<[{ secret: string }]>`
    select webhookpub.rotate_secret(${named(sql, { p_webhook_id: id, ...args })}) as secret`;
  return row.secret;
}

void t.test("a rotation leaves at most two live secrets, and both sign", async (t) => {
  const { sql } = common;
  const { id, secret: first } = await createWebhookWith(sql);
  await Promise.all(times(3, () => publishTx(sql)));
  await sql`select webhookpub.fan_out()`;
  const signers = async (): Promise<string[]> => {
    const [request] = await leaseRequests(sql, [id], [1]);
    if (!request) throw new Error("nothing was leased");
    return secrets.filter((secret) => {
      try {
        return new Webhook(secret).verify(request.body, request.headers) !== undefined;
      } catch {
        return false;
      }
    });
  };
  const second = await rotate(sql, id);
  const secrets = [first, second];
  t.match(second, /^whsec_[A-Za-z0-9+/]{43}=$/);
  t.strictSame(await signers(), [first, second], "both, until the grace ends");
  const [grace] = await sql`
    select expires_at - now() between '23 hours' and '24 hours' as ok
    from webhookpub.secrets where secret = ${first}`;
  t.equal(grace?.["ok"], true, "of 24 hours");

  const third = await rotate(sql, id);
  secrets.push(third);
  t.strictSame(
    [...(await secretsOf(sql, id))],
    [
      { secret: second, current: false },
      { secret: third, current: true },
    ],
    "the one before the last ends at once",
  );
  t.strictSame(await signers(), [second, third]);

  await sql`update webhookpub.secrets set expires_at = now() where expires_at is not null`;
  t.strictSame(await signers(), [third], "after the grace only the new one signs");
});

void t.test("a rotation without grace ends the old secret at once", async (t) => {
  const { sql } = common;
  const { id } = await createWebhookWith(sql);
  await rotate(sql, id);
  const secret = await rotate(sql, id, { p_grace: "0" });
  t.strictSame([...(await secretsOf(sql, id))], [{ secret, current: true }]);
});

void t.test("the grace of a rotation is 0 to 30 days", async (t) => {
  const { sql } = common;
  const { id } = await createWebhookWith(sql);
  const before = await state(sql);
  for (const [grace, says] of [
    ["-1 s", "-00:00:01"],
    ["31 days", "31 days"],
    [null, "null"],
  ] as const) {
    await refused(t, rotate(sql, id, { p_grace: grace }), { code: "WH010", says });
  }
  t.strictSame(await state(sql), before, "nothing is written");
  t.match(await rotate(sql, id, { p_grace: "30 days" }), /^whsec_/);
});

void t.test("ten rotations at once leave one current secret, and one beside it", async (t) => {
  const { sql } = common;
  const { id } = await createWebhookWith(sql);
  const issued = await Promise.all(times(10, () => rotate(sql, id)));
  t.equal(new Set(issued).size, 10);
  const live = await secretsOf(sql, id);
  t.strictSame(
    live.map(({ current }) => current),
    [false, true],
  );
  for (const { secret } of live) t.ok(issued.includes(secret), "both of them were issued");
});
