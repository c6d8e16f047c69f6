import { readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { z } from "zod";
import {
  asWebhookpubError,
  defineCatalog,
  errorClasses,
  eventId,
  publish,
  publishBestEffortTx,
  publishTx,
  WebhookpubError,
} from "../../src/client/client.ts";
import { root } from "../../src/config.ts";
import { testDatabase } from "../support/database.ts";
import { readPage } from "../support/markdown.ts";
import { sqlFiles } from "../support/sql_files.ts";

const event = { type: "email.sent", userId: "user_1", data: { subject: "Grüße" } };

/** Parts that strings in JavaScript can be, and the ones that separate parts. */
const PIECES = ["msg_1", "email.sent", "|", "", " ", "ü", "日本", "😀", "\\", "'", '"', "\n", "{}"];

void t.test("eventId makes of the same parts what SQL makes of them", async (t) => {
  const { sql } = await testDatabase(t);
  const piece = () => PIECES[Math.floor(Math.random() * PIECES.length)] ?? "";
  const part = () => Array.from({ length: Math.floor(Math.random() * 5) }, piece).join("");
  const inputs = Array.from({ length: 2000 }, () =>
    Array.from({ length: 1 + Math.floor(Math.random() * 4) }, part),
  );
  const rows = await sql<{ parts: string[]; id: string }[]>`
    select i.parts, webhookpub.event_id(variadic i.parts) as id
    from (
      select array(select jsonb_array_elements_text(e.value)) as parts
      from jsonb_array_elements(${JSON.stringify(inputs)}::text::jsonb) as e
    ) as i`;
  t.equal(rows.length, inputs.length);
  const wrong = rows.filter(({ parts, id }) => eventId(...parts) !== id);
  t.strictSame(wrong, []);
  for (const parts of [[], [null], ["a", undefined], ["a\0"]]) {
    t.throws(
      () => eventId(...(parts as string[])),
      { name: "BadEventIdError" },
      JSON.stringify(parts),
    );
  }
});

void t.test(
  "the client publishes in the caller's transaction, and says what went wrong",
  async (t) => {
    const { sql } = await testDatabase(t);
    const id = await sql.begin((tx) => publishTx(tx, { ...event, messageId: "msg_1" }));
    t.equal(id, eventId("msg_1", "email.sent"));
    t.match(
      [...(await sql`select * from webhookpub.event_log`)],
      [{ event_id: id, user_id: "user_1", event_type: "email.sent" }],
    );
    await t.rejects(sql.begin((tx) => publishTx(tx, { ...event, type: "email.eaten" })));
    const taken = publishTx(sql, { ...event, userId: "user_2", messageId: "msg_1" });
    const expected = { name: "EventIdTakenError", hint: /\S/, cause: { code: "WH004" } };
    await t.rejects(taken, expected);
    await t.rejects(publishTx(sql, { ...event, data: [] }), { name: "BadPayloadError" });
    const ordered = await publishTx(sql, { ...event, orderingKey: "order_1" });
    t.match(await sql`select ordering_key from webhookpub.events where id = ${ordered}`, [
      { ordering_key: "order_1" },
    ]);
    await t.rejects(publishTx(sql, { ...event, orderingKey: "" }), { name: "BadOrderingKeyError" });
    await t.rejects(publishTx({} as never, event), { message: /pass a connection/ });
    const gone = new Error("no connection");
    await t.rejects(
      publishTx(() => Promise.reject(gone), event),
      gone,
      "what is none of ours stays as it is",
    );

    await sql.begin(async (tx) => {
      t.equal(await publishBestEffortTx(tx, { ...event, type: "email.eaten" }), null);
      t.match(await publishBestEffortTx(tx, event), /^evt_/, "the transaction goes on");
    });
    t.equal((await sql`select from webhookpub.publish_failures`).count, 1);
    t.match(await publish(sql, event), /^evt_/);
    t.equal(await publish(sql, { ...event, type: "email.eaten" }), null);
    await sql`update webhookpub.settings set publish_enabled = false`;
    t.equal(await publishTx(sql, event), null, "publishing is off");
  },
);

void t.test("every error that an application's call can raise has a class", async (t) => {
  const { text } = await readPage("docs/errors.md");
  const documented = [...text.matchAll(/^## (WH\d{3}):/gm)].map(([, code]) => code ?? "");
  const codes = Object.keys(errorClasses);
  t.strictSame(
    codes.filter((code) => !documented.includes(code)),
    [],
    "classes without a page",
  );
  const called = (await sqlFiles()).filter(({ path }) =>
    /^(0_webhooks|1_publish|8_steer)/.test(path),
  );
  const raised = called.flatMap(({ code }) => code.match(/errcode = 'WH\d{3}'/g) ?? []);
  t.ok(raised.length > 10);
  t.strictSame(
    raised.filter((text) => !codes.includes(text.slice(-6, -1))),
    [],
    "errors without a class",
  );
  t.equal(new Set(Object.values(errorClasses)).size, codes.length, "each its own");
  for (const code of codes) {
    const thrown = Object.assign(new Error("message"), { code, hint: "hint" });
    for (const wrapped of [
      thrown,
      new Error("wrapped", { cause: thrown }),
      { driverError: thrown },
    ]) {
      const error = asWebhookpubError(wrapped) as WebhookpubError;
      t.equal(error.constructor, errorClasses[code]);
      t.match(error, { code, message: "message", hint: "hint", cause: wrapped });
    }
  }
  const newer = asWebhookpubError({ code: "WH099", message: "", hint: "" }) as WebhookpubError;
  t.equal(newer.constructor, WebhookpubError, "a code that is newer than the client");
});

void t.test("the client's rows have the columns that there are", async (t) => {
  const { sql } = await testDatabase(t);
  const source = await readFile(join(root, "src/client/rows.ts"), "utf8");
  const interfaces = [...source.matchAll(/\/\*\* A row of webhookpub\.(\w+)(\(\))?.*?^}/gms)];
  t.ok(interfaces.length >= 5);
  for (const [text, name = "", call] of interfaces) {
    const fields = [...text.matchAll(/^ {2}(\w+): (.*);$/gm)];
    const columns = call
      ? await sql<{ name: string; nullable: string }[]>`
          select parameter_name as name, 'YES' as nullable from information_schema.parameters
          where specific_schema = 'webhookpub' and specific_name like ${`${name}_%`}
            and parameter_mode = 'OUT'`
      : await sql<{ name: string; nullable: string }[]>`
          select column_name as name, is_nullable as nullable from information_schema.columns
          where table_schema = 'webhookpub' and table_name = ${name}`;
    const known = new Map(columns.map((column) => [column.name, column.nullable]));
    for (const [, field = "", type = ""] of fields) {
      t.ok(known.has(field), `${name}.${field} is there`);
      if (known.get(field) === "NO") t.notMatch(type, "null", `${name}.${field} is never null`);
    }
  }
});

void t.test("a catalog refuses what its schema refuses, before it asks the database", async (t) => {
  const { sql } = await testDatabase(t);
  const catalog = defineCatalog({
    "email.sent": z
      .object({ subject: z.string(), size: z.number().default(0) })
      .describe("An email was sent."),
  });
  const id = await sql.begin((tx) =>
    catalog.publishTx(tx, { type: "email.sent", userId: "user_1", data: { subject: "Hi" } }),
  );
  const [stored] = await sql<[{ data: object }]>`
    select envelope::jsonb -> 'data' as data from webhookpub.envelopes_by_event
    where event_id = ${id}`;
  t.strictSame(stored.data, { subject: "Hi", size: 0 });
  const asked = () => t.fail("it asks the database");
  for (const name of ["publishTx", "publishBestEffortTx", "publish"] as const) {
    const wrong = { type: "email.sent", userId: "user_1", data: { subject: 7 } } as never;
    await t.rejects(catalog[name](asked as never, wrong), {
      name: "BadPayloadError",
      code: "WH003",
      message: /email\.sent: subject: /,
    });
  }
  const unknown = { type: "email.eaten", userId: "user_1", data: {} } as never;
  await t.rejects(catalog.publishTx(sql, unknown), { name: "UnknownEventTypeError" });
  t.match(catalog.describe(), [
    {
      name: "email.sent",
      description: "An email was sent.",
      schema: { type: "object", required: ["subject", "size"] },
    },
  ]);
});

void t.test("docs/client.md has every function and every class of an error", async (t) => {
  const { text } = await readPage("docs/client.md");
  for (const name of ["publishTx", "publishBestEffortTx", "publish", "eventId", "defineCatalog"]) {
    t.match(text, new RegExp(`^\\| \`${name}\\b`, "m"), name);
  }
  for (const [code, { name }] of Object.entries(errorClasses)) {
    t.match(text, new RegExp(`\`${code}\` +\\| \`${name}\``), code);
  }
});
