// One publisher and one receiver with a real database and a real worker between them.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { connect as connectTo } from "node:net";
import { join } from "node:path";
import { connect, type Sql } from "../../src/database/connect.ts";
import { root } from "../../src/config.ts";
import { databaseOf, TEMPLATE } from "../../test/support/cluster.ts";
import { freePort } from "../../src/free_port.ts";
import { NO_PGBOUNCER, startPgBouncer } from "../../test/support/pgbouncer.ts";
import type { Scope } from "../../test/support/scope.ts";
import { until } from "../../test/support/until.ts";
import { startWorkerProcess } from "../../test/support/worker_process.ts";
import { type Language, nodeReceiver } from "./languages.ts";
import { runCommand, startCommand } from "./run_command.ts";

/** The labels of the event; the second is what a badly written array would break. */
const LABELS = ["vip", 'two words, "quoted"'];

export interface Scene {
  readonly language: Language;
  /** One of the language's. */
  readonly publisher: string;
  readonly scheme: "standard" | "stripe";
}

interface Webhook {
  readonly id: string;
  readonly secret: string;
}

/** Everything that a scene has set up. */
interface Stage {
  readonly scene: Scene;
  readonly url: string;
  /** The publisher's database. */
  readonly sql: Sql;
  /** The receiver's. */
  readonly inbox: Sql;
  readonly matching: Webhook;
  readonly other: Webhook;
  readonly receiverUrl: string;
}

/**
 * Runs one publisher against one receiver, in databases of their own.
 *
 * @throws Error when something is not as it has to be
 */
export async function playScene(scope: Scope, clusterUrl: string, scene: Scene): Promise<void> {
  const stage = await setStage(scope, clusterUrl, scene);
  await refuseForged(stage);
  const held = await stage.inbox.reserve();
  await held`begin`;
  await held`lock table receipts in access exclusive mode`;
  const ids = await publish(stage);
  await publishedRightly(stage, ids);
  await settled(stage, 1);
  const [early] = await stage.inbox`select from inbox where handled_at is not null`;
  assert.equal(early, undefined, "it answers before it works");
  await held`rollback`;
  held.release();
  await handledOnce(stage, ids);
  await stage.sql`select webhookpub.redeliver(p_event_id => ${ids.published})`;
  await settled(stage, 2);
  await stage.sql`select webhookpub.rotate_secret(p_webhook_id => ${stage.matching.id})`;
  await stage.sql`select webhookpub.redeliver(p_event_id => ${ids.published})`;
  await settled(stage, 3);
  await handledOnce(stage, ids);
  await throughPgBouncer(scope, stage);
}

async function setStage(scope: Scope, clusterUrl: string, scene: Scene): Promise<Stage> {
  const [url, inboxUrl] = await makeDatabases(scope, clusterUrl);
  const open = (to: string) => {
    const sql = connect(to, { max: 3 });
    scope.teardown(() => sql.end({ timeout: 1 }));
    return sql;
  };
  const sql = open(url);
  const inbox = open(inboxUrl);
  const file = (name: string) => readFile(join(root, "examples/languages", name), "utf8");
  await sql.unsafe(await file("orders.sql"));
  await inbox.unsafe(await file("inbox.sql"));
  await sql`
    update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const port = await freePort();
  const receiverUrl = `http://127.0.0.1:${port}/`;
  const subscribe = async (label: string) => {
    const [webhook] = await sql<[Webhook]>`
      select webhook_id as id, signing_secret as secret
      from webhookpub.create_webhook(
        p_user_id => '42', p_url => ${receiverUrl}, p_events => '{order.*}',
        p_filters => ${sql.json({ labels: [label] })}, p_signature_scheme => ${scene.scheme}
      )`;
    return webhook;
  };
  const matching = await subscribe(LABELS[1] ?? "");
  const other = await subscribe("two words");
  await startReceiver(scope, scene, { WEBHOOK_SECRET: matching.secret, PORT: `${port}` }, inboxUrl);
  await startWorkerProcess(scope, url);
  return { scene, url, sql, inbox, matching, other, receiverUrl };
}

/** The publisher's database, with webhookpub in it, and the receiver's. */
async function makeDatabases(scope: Scope, clusterUrl: string): Promise<[string, string]> {
  const admin = connect(clusterUrl, { max: 1 });
  const name = `example_${randomBytes(6).toString("hex")}`;
  const made: [string, string] = [name, `${name}_inbox`];
  await admin.unsafe(`create database ${made[0]} template ${TEMPLATE}`);
  await admin.unsafe(`create database ${made[1]} template template0`);
  scope.teardown(async () => {
    for (const database of made) await admin.unsafe(`drop database ${database} with (force)`);
    await admin.end();
  });
  return made.map((database) => databaseOf(clusterUrl, database)) as [string, string];
}

/** How each language finds its database. */
function databaseEnv(url: string, query = ""): Record<string, string> {
  const { hostname, port, username, pathname } = new URL(url);
  return {
    DATABASE_URL: query === "" ? url : `${url}?${query}`,
    JDBC_DATABASE_URL: `jdbc:postgresql://${hostname}:${port}${pathname}?user=${username}&${query}`,
    PGHOST: hostname,
    PGPORT: port,
    PGUSER: username,
    PGDATABASE: pathname.slice(1),
  };
}

async function startReceiver(
  scope: Scope,
  { language, scheme }: Scene,
  env: { WEBHOOK_SECRET: string; PORT: string },
  inboxUrl: string,
): Promise<void> {
  const commands = scheme === "stripe" ? language.stripeReceiver : language.receiver;
  const processes = (commands ?? nodeReceiver).map((command) =>
    startCommand(scope, command, {
      folder: language.folder,
      env: { ...language.env, ...env, ...databaseEnv(inboxUrl) },
    }),
  );
  await until(async () => {
    const dead = processes.find((process) => process.over());
    if (dead) throw new Error(`the receiver ended:\n${dead.output()}`);
    return await isOpen(Number(env.PORT));
  }, "the receiver to listen");
}

/** Whether somebody listens on this port. */
async function isOpen(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connectTo(port, "127.0.0.1");
    const end = (open: boolean) => {
      socket.destroy();
      resolve(open);
    };
    socket.once("connect", () => end(true)).once("error", () => end(false));
  });
}

/** Requests that are not genuine are told so, and leave nothing behind. */
async function refuseForged({ scene, receiverUrl, inbox }: Stage): Promise<void> {
  const body = JSON.stringify({ event: "order.paid", id: "evt_forged", data: {} });
  const now = String(Math.floor(Date.now() / 1000));
  const wrong = Buffer.alloc(32, 1);
  const signed: Record<string, string> =
    scene.scheme === "stripe"
      ? { "x-webhook-signature": `t=${now},v1=${wrong.toString("hex")}` }
      : {
          "webhook-id": "evt_forged",
          "webhook-timestamp": now,
          "webhook-signature": `v1,${wrong.toString("base64")}`,
        };
  for (const headers of [{}, signed]) {
    const { status } = await fetch(receiverUrl, { method: "POST", body, headers });
    assert.equal(status, 401, `forged, with ${JSON.stringify(headers)}`);
  }
  assert.equal((await inbox`select from inbox`).count, 0, "what is forged is not stored");
}

interface Published {
  readonly published: string;
  readonly rolledBack: string;
}

/** Runs the publisher; the ids that it told. */
async function publish({ scene, url }: Stage, query = ""): Promise<Published> {
  const { language, publisher } = scene;
  const output = await runCommand(language.publishers[publisher] ?? [], {
    folder: language.folder,
    env: { ...language.env, ...databaseEnv(url, query) },
  });
  const told = (what: string) => {
    const id = new RegExp(`^${what} (evt_[0-9a-f]{32})$`, "m").exec(output)?.[1];
    if (!id) throw new Error(`the publisher did not tell what it ${what}:\n${output}`);
    return id;
  };
  const published = told("published");
  assert.equal(told("again"), published, "the same message again is the same event");
  return { published, rolledBack: told("rolled back") };
}

/** Publishes through PgBouncer in transaction mode, over a connection that others had before. */
async function throughPgBouncer(scope: Scope, stage: Stage): Promise<void> {
  const { language, publisher } = stage.scene;
  const { [publisher]: query = "" } = language.pooled ?? {};
  if (NO_PGBOUNCER || query === null) return;
  const url = await startPgBouncer(scope, stage.url, "transaction", [
    "default_pool_size = 1",
    "ignore_startup_parameters = extra_float_digits",
  ]);
  const first = await publish({ ...stage, url }, query);
  const second = await publish({ ...stage, url }, query);
  assert.notEqual(first.published, second.published);
  const [events] = await stage.sql<[{ n: number }]>`
    select count(*)::integer as n from webhookpub.events`;
  assert.equal(events.n, 3, "two more events");
}

/** What stands in the publisher's database. */
async function publishedRightly({ sql, other }: Stage, ids: Published): Promise<void> {
  assert.notEqual(ids.rolledBack, ids.published);
  const events = await sql`select id, user_id, labels, message_id from webhookpub.events`;
  const orders = await sql<{ id: string }[]>`select id from orders`;
  assert.deepEqual(
    [...events],
    [{ id: ids.published, user_id: "42", labels: LABELS, message_id: orders[0]?.id }],
    "one event",
  );
  assert.equal(orders.length, 1, "one order");
  await until(
    async () => (await sql`select from webhookpub.events where status = 'pending'`).count === 0,
    "the fan-out",
  );
  assert.equal(
    (await sql`select from webhookpub.deliveries where webhook_id = ${other.id}`).count,
    0,
    "none for the webhook with another label",
  );
}

/** Waits until so many deliveries are over; each was accepted at once. */
async function settled({ sql, matching }: Stage, count: number): Promise<void> {
  const deliveries = () => sql<{ webhook_id: string; status: string; last_error: string | null }[]>`
    select webhook_id, status, last_error from webhookpub.deliveries order by created_at`;
  await until(async () => {
    const rows = await deliveries();
    const failed = rows.find((row) => row.last_error);
    if (failed) throw new Error(`the receiver answered: ${failed.last_error}`);
    return rows.length === count && rows.every((row) => row.status === "delivered");
  }, `${count} deliveries`);
  for (const row of await deliveries()) assert.equal(row.webhook_id, matching.id);
}

/** What the receiver has handled: that event, once, with the very data. */
async function handledOnce({ inbox, sql }: Stage, { published }: Published): Promise<void> {
  await until(
    async () => (await inbox`select from inbox where handled_at is null`).count === 0,
    "the work to be done",
  );
  const events = await inbox`select event_id from inbox`;
  assert.deepEqual([...events], [{ event_id: published }], "one event, however often it came");
  const [order] = await sql<{ id: string }[]>`select id from orders`;
  const data = {
    order_id: order?.id,
    amount: 1250,
    note: 'Grüße, "you" \\ 😀',
    items: [{ sku: "A-1", count: 2 }],
  };
  const [expected] = await sql<[{ text: string }]>`select ${sql.json(data)}::text as text`;
  const receipts = await inbox`select order_id, data::text from receipts`;
  assert.deepEqual(
    [...receipts],
    [{ order_id: order?.id, data: expected.text }],
    "one receipt, with the data byte for byte",
  );
}
