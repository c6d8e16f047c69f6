// The examples, and the SQL of the documentation, run.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Webhook } from "standardwebhooks";
import t from "tap";
import { root } from "../src/config.ts";
import { testDatabase } from "./support/database.ts";
import { freshDatabase, PRELUDE, runBlock } from "./support/documented.ts";
import { freePort } from "../src/free_port.ts";
import { startExampleReceiver } from "./support/example_receiver.ts";
import { readPage, readPages, shownColumns, sqlBlocks } from "./support/markdown.ts";
import { refused } from "./support/refused.ts";
import { until } from "./support/until.ts";

void t.test("examples/trigger.sql publishes before and after a side effect", async (t) => {
  const database = await freshDatabase(t);
  const { sql } = database;
  await runBlock(t, database.session(), await readFile(join(root, "examples/trigger.sql"), "utf8"));
  const published = async () => {
    const rows = await sql<{ type: string }[]>`
      select type from webhookpub.events order by created_at`;
    return rows.map((row) => row.type);
  };
  const status = async (id: string) =>
    (await sql<{ status: string }[]>`select status from emails where id = ${id}`)[0]?.status;

  await sql`insert into emails (id, user_id, subject) values ('em_1', 'user_1', 'Hello')`;
  await sql`update emails set status = 'approved' where id = 'em_1'`;
  await sql`update emails set status = 'approved' where id = 'em_1'`;
  await sql`update emails set status = 'sent' where id = 'em_1'`;
  t.strictSame(
    await published(),
    ["email.pending_approval", "email.approved", "email.sent"],
    "one event a status, however often it is set",
  );

  await sql`
    delete from webhookpub.event_types where name in ('email.pending_approval', 'email.sent')`;
  await refused(
    t,
    sql`insert into emails (id, user_id, subject) values ('em_2', 'user_1', 'Hello')`,
    { code: "WH002", says: "email.pending_approval" },
    "before",
  );
  t.equal(await status("em_2"), undefined, "the email is not there either");

  await sql`alter table emails disable trigger emails__publish_decision`;
  await sql`insert into emails (id, user_id, subject) values ('em_3', 'user_1', 'Hello')`;
  await sql`update emails set status = 'sent' where id = 'em_3'`;
  t.equal(await status("em_3"), "sent", "after: what has happened stays written down");
  t.strictSame(
    [...(await sql`select event_type, sqlstate, message_id from webhookpub.publish_failures`)],
    [{ event_type: "email.sent", sqlstate: "WH002", message_id: "em_3" }],
    "and the failure is kept",
  );
  t.equal((await published()).length, 3, "nothing else was published");
});

void t.test("examples/receiver.ts handles a genuine event once, and nothing else", async (t) => {
  const secret = `whsec_${Buffer.alloc(32, 7).toString("base64")}`;
  const receiver = await startExampleReceiver(t, { secret, port: await freePort() });
  const id = "evt_1";
  const body = JSON.stringify({ event: "email.sent", id, created_at: "", data: { n: 1 } });
  const now = new Date();
  const old = new Date(now.getTime() - 10 * 60_000);
  const post = async (timestamp: Date, signed: string, sent: string) => {
    const response = await fetch(receiver.url, {
      method: "POST",
      body: sent,
      headers: {
        "webhook-id": id,
        "webhook-timestamp": String(Math.floor(timestamp.getTime() / 1000)),
        "webhook-signature": new Webhook(secret).sign(id, timestamp, signed),
      },
    });
    return response.status;
  };

  t.equal(await post(now, body, body.replace("1}", "2}")), 401, "another body");
  t.equal(await post(old, body, body), 401, "an old timestamp");
  t.equal((await fetch(receiver.url, { method: "POST", body })).status, 401, "no signature");
  t.equal(await post(now, body, " ".repeat(2 * 1024 * 1024)), 413, "a body that is too long");
  t.strictSame(receiver.handled(), [], "none of them is handled");

  t.equal(await post(now, body, body), 204, "a genuine one");
  t.equal(await post(now, body, body), 204, "and again");
  // What it prints comes by another way than its answers.
  await until(() => receiver.handled().length > 0, "it to say so");
  t.strictSame(receiver.handled(), [`email.sent ${id} {"n":1}`], "it is handled once");
});

void t.test("every SQL block of the documentation runs", async (t) => {
  const pages = (await readPages()).filter(
    (page) => page.path !== "README.md" && sqlBlocks(page).length > 0,
  );
  t.ok(pages.length > 3);
  for (const page of pages) {
    await t.test(page.path, async (t) => {
      const session = (await freshDatabase(t)).session();
      await runBlock(t, session, PRELUDE);
      for (const block of sqlBlocks(page)) {
        const results = await runBlock(t, session, block);
        const shown = shownColumns(page, block);
        if (shown) t.strictSame(Object.keys(results.at(-1)?.[0] ?? {}), shown, "what is shown");
      }
    });
  }
});

void t.test("the documentation names", async (t) => {
  const { sql } = await testDatabase(t);
  const sources = await Promise.all(
    ["sql", "src"].map(async (folder) => {
      const names = await readdir(join(root, folder), { recursive: true });
      const files = names.filter((name) => /\.(sql|ts)$/.test(name));
      return await Promise.all(files.map((name) => readFile(join(root, folder, name), "utf8")));
    }),
  );
  const config = await readFile(join(root, "src/config.ts"), "utf8");
  const settings = await sql<{ name: string }[]>`
    select attname as name
    from pg_attribute
    where attrelid = 'webhookpub.settings'::regclass
      and attnum > 0 and not attisdropped and attname <> 'one_row'`;
  const functions = await sql<{ name: string }[]>`
    select p.parameter_name as name
    from information_schema.parameters as p
    where p.specific_schema = 'webhookpub'
      and p.specific_name like 'create_webhook_%' and p.parameter_mode = 'IN'`;
  const metrics = await sql<{ name: string }[]>`select name from webhookpub.metrics`;
  const named = [
    {
      what: "metrics",
      names: metrics.map((row) => row.name),
      page: "docs/monitoring.md",
      pattern: /^\| `([a-z]+(?:_[a-z]+)*)` /gm,
    },
    {
      what: "error codes",
      names: sources.flat().flatMap((text) => text.match(/\bWH\d{3}\b/g) ?? []),
      page: "docs/errors.md",
      pattern: /^## (WH\d{3}):/gm,
    },
    {
      what: "environment variables",
      names: [...(config.match(/\bWEBHOOKPUB_\w+/g) ?? []), "DATABASE_URL"],
      page: "docs/operations.md",
      pattern: /^\| `([A-Z_]+)`/gm,
    },
    {
      what: "settings",
      names: settings.map((row) => row.name),
      page: "docs/operations.md",
      pattern: /`([a-z]+(?:_[a-z]+)+)`/g,
    },
    {
      what: "arguments of create_webhook",
      names: functions.map((row) => row.name),
      page: "docs/webhooks.md",
      pattern: /^\| `(p_\w+)`/gm,
    },
  ];
  for (const { what, names, page, pattern } of named) {
    const { text } = await readPage(page);
    const found = new Set([...text.matchAll(pattern)].map(([, name]) => name));
    const missing = [...new Set(names)].filter((name) => !found.has(name));
    t.ok(names.length > 0 && missing.length === 0, `every one of the ${what}`, { missing });
  }
});
