// Several workers share the work, and none of them knows of the others.
import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { type Received, startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { untilNone } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const USERS = 6;
const WEBHOOKS = 60;
const EVENTS = 60;
/**
 * Requests that each has under way: fewer than it may by itself, so that a machine with much else
 * to do answers each in time, and far fewer than there are.
 */
const IN_FLIGHT = 200;
const DELIVERIES = WEBHOOKS * EVENTS;

/** Starts a worker that connects to receivers from an address of its own, as one elsewhere does. */
async function startWorkerAt(t: Test, url: string, address: string): Promise<void> {
  const script = `
    import { syncBuiltinESMExports } from "node:module";
    import net from "node:net";
    const { connect } = net;
    net.connect = (options) => connect({ ...options, localAddress: "${address}" });
    // What modules import by name is a copy.
    syncBuiltinESMExports();`;
  const preload = `data:text/javascript,${encodeURIComponent(script)}`;
  await startWorkerProcess(t, url, {
    env: { NODE_OPTIONS: `--import=${preload}`, WEBHOOKPUB_MAX_IN_FLIGHT: String(IN_FLIGHT) },
  });
}

/** A receiver that takes a moment for each of many webhooks. */
async function scene(t: Test) {
  const database = await testDatabase(t);
  const receiver = await startReceiver(t);
  receiver.reply = () => ({ status: 200, delayMs: 1000 });
  for (let n = 0; n < WEBHOOKS; n += 1) {
    await createWebhook(database.sql, {
      userId: `user_${n % USERS}`,
      url: receiver.url(`/${n}`),
      // More than one process has under way: what one can't, another can.
      maxInFlight: 100,
    });
  }
  return { ...database, receiver };
}

async function publishAll(sql: Sql): Promise<void> {
  for (let user = 0; user < USERS; user += 1) {
    await publish(sql, { userId: `user_${user}`, count: EVENTS });
  }
}

/** However long it takes: as long as there are less and less. */
async function allDelivered(sql: Sql): Promise<void> {
  const left = async () => {
    const [row] = await sql<[{ delivered: number }]>`
      select count(*)::integer as delivered
      from webhookpub.deliveries where status = 'delivered'`;
    return DELIVERIES - row.delivered;
  };
  await untilNone(left, "the deliveries", async () => {
    const waiting = await sql`
      select waits_for, last_error, attempts, count(*)
      from webhookpub.delivery_log where status = 'pending' group by 1, 2, 3`;
    const failed = await sql`
      select error, count(*), min(duration_ms), max(duration_ms)
      from webhookpub.attempts where error is not null group by 1`;
    return JSON.stringify({ waiting, failed });
  });
}

/** None was lost, and none came twice. */
function eachOnce(t: Test, requests: readonly Received[]): void {
  const ids = new Set(requests.map(({ headers }) => headers["webhook-delivery-id"]));
  t.equal(ids.size, DELIVERIES, "each delivery");
  t.equal(requests.length, DELIVERIES, "once");
}

/** How many requests came from each address. */
function partsOf(requests: readonly Received[]): Record<string, number> {
  const parts: Record<string, number> = {};
  for (const { from } of requests) parts[from] = (parts[from] ?? 0) + 1;
  return parts;
}

void t.test("three workers share the work, and know nothing of each other", async (t) => {
  const { url, sql, receiver } = await scene(t);
  const addresses = ["127.0.1.1", "127.0.1.2", "127.0.1.3"];
  await Promise.all(addresses.map((address) => startWorkerAt(t, url, address)));
  await publishAll(sql);
  await allDelivered(sql);
  eachOnce(t, receiver.requests);
  const parts = partsOf(receiver.requests);
  t.comment(parts);
  for (const address of addresses) {
    t.ok((parts[address] ?? 0) > DELIVERIES / 20, `${address}: ${parts[address]}`);
  }
});

void t.test("a worker that starts late helps with what is there already", async (t) => {
  const { url, sql, receiver } = await scene(t);
  await publishAll(sql);
  await startWorkerAt(t, url, "127.0.1.1");
  await receiver.received(500);
  // However long its start takes, there is something left for it.
  const { reply } = receiver;
  receiver.reply = () => ({ status: 200, delayMs: 8000 });
  await startWorkerAt(t, url, "127.0.1.2");
  receiver.reply = reply;
  const before = receiver.requests.length;
  await allDelivered(sql);
  eachOnce(t, receiver.requests);
  const parts = partsOf(receiver.requests.slice(before));
  t.comment(parts);
  t.ok((parts["127.0.1.2"] ?? 0) > (DELIVERIES - before) / 20, `${parts["127.0.1.2"]}`);
});
