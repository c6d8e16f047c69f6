// WEBHOOKPUB_PORT: what a worker process says over HTTP.
import { spawn } from "node:child_process";
import { once } from "node:events";
import t, { type Test } from "tap";
import { readMetrics } from "../../src/database/calls.ts";
import { makePool } from "../../src/database/pool.ts";
import { serveHealth } from "../../src/health.ts";
import { version } from "../../src/version.ts";
import { makeVitals } from "../../src/vitals.ts";
import { stoppableDatabase, testDatabase } from "../support/database.ts";
import { freePort } from "../../src/free_port.ts";
import { skipWithout } from "../support/installed.ts";
import { createLogin } from "../support/login.ts";
import { readPage } from "../support/markdown.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import type { Scope } from "../support/scope.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** Asks what is below this URL. */
function getter(url: string) {
  return async (path: string, method = "GET") => {
    const response = await fetch(url + path, { method });
    return { status: response.status, text: await response.text() };
  };
}

/** Starts a worker with a health port; what it answers there. */
async function startHealthyWorker(t: Scope, url: string) {
  const port = await freePort();
  const worker = await startWorkerProcess(t, url, {
    env: { WEBHOOKPUB_PORT: `127.0.0.1:${port}` },
  });
  const get = getter(`http://127.0.0.1:${port}`);
  await until(
    async () => (await get("/readyz").catch(() => undefined))?.status === 200,
    "the worker to be ready",
  );
  return { worker, get };
}

/** The series of a page of /metrics: names with their labels, and values. */
function series(page: string): Map<string, number> {
  const lines = page.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => {
      const end = line.lastIndexOf(" ");
      return [line.slice(0, end), Number(line.slice(end + 1))];
    }),
  );
}

/** What the real promtool finds wrong with a page of /metrics. */
async function lint(page: string): Promise<string> {
  const child = spawn("promtool", ["check", "metrics"], { stdio: ["pipe", "pipe", "pipe"] });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stdin.end(page);
  await once(child, "close");
  return output;
}

void t.test("a worker that owns nothing tells its figures, and the database's", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  const receiver = await startReceiver(t);
  const replies: Record<string, 200 | 500 | "reset" | "hang"> = {
    "/good": 200,
    "/bad": 500,
    "/gone": "reset",
    "/slow": "hang",
  };
  receiver.reply = ({ path }) => replies[path] ?? 200;
  const login = await createLogin(t, database, "webhookpub_worker");
  const { get } = await startHealthyWorker(t, login.url);
  t.strictSame(await get("/healthz"), { status: 200, text: "ok\n" });
  t.strictSame(await get("/readyz"), { status: 200, text: "ok\n" });
  t.equal((await get("/")).status, 404);
  t.equal((await get("/metrics", "POST")).status, 404);

  for (const path of Object.keys(replies)) {
    await createWebhook(sql, { url: receiver.url(path), requestTimeout: "30 s" });
  }
  await publish(sql, { count: 2 });
  const figures = async () => series((await get("/metrics")).text);
  const all = 'webhookpub_worker_attempt_duration_seconds_bucket{le="+Inf"}';
  let now = await figures();
  await until(async () => {
    now = await figures();
    // A database that is too slow for Prometheus leaves its own figures out.
    const isWhole = now.get("webhookpub_attempts_total") === 6;
    return isWhole && now.get(all) === 6 && now.get("webhookpub_worker_leases") === 2;
  }, "six answers, and two requests that hang");
  const has = (name: string, value: number) => t.equal(now.get(name), value, name);
  has(`webhookpub_worker_info{version="${version}",phase="running"}`, 1);
  has('webhookpub_worker_attempts_total{outcome="2xx"}', 2);
  has('webhookpub_worker_attempts_total{outcome="5xx"}', 2);
  has('webhookpub_worker_attempts_total{outcome="refused"}', 2);
  has("webhookpub_worker_requests_in_flight", 2);
  has("webhookpub_worker_requests_limit", 1000);
  has("webhookpub_worker_attempt_duration_seconds_count", 6);
  has("webhookpub_attempts_total", 6);
  has("webhookpub_webhooks_enabled", 4);
  const bytes = now.get("process_resident_memory_bytes") ?? 0;
  t.ok(bytes > 20e6 && bytes < 2e9, `${bytes} B`);
  t.ok((now.get("process_cpu_seconds_total") ?? 0) > 0);
  for (const { name } of await readMetrics(sql)) t.ok(now.has(`webhookpub_${name}`), name);
  const { text } = await readPage("docs/monitoring.md");
  const own = [...now.keys()].map(
    (key) => /^webhookpub_worker_[a-z_]*?(?=(_bucket|_sum|_count)?({|$))/.exec(key)?.[0],
  );
  for (const name of new Set(own))
    if (name) t.ok(text.includes(`\`${name}\``), `documented: ${name}`);
});

void t.test(
  "promtool finds nothing wrong with /metrics",
  { skip: skipWithout("promtool") },
  async (t) => {
    const { url, sql } = await testDatabase(t);
    const receiver = await startReceiver(t);
    const { get } = await startHealthyWorker(t, url);
    await createWebhook(sql, { url: receiver.url() });
    await publish(sql);
    await until(async () => (await get("/metrics")).text.includes('outcome="2xx"'), "the attempt");
    t.equal(await lint((await get("/metrics")).text), "");
  },
);

void t.test("a worker that is told to stop lives on, but is not ready", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const gate = Promise.withResolvers<void>();
  receiver.reply = () => gate.promise.then(() => 200);
  const { worker, get } = await startHealthyWorker(t, url);
  await createWebhook(sql, { url: receiver.url(), requestTimeout: "30 s" });
  await publish(sql);
  await receiver.received(1);
  worker.kill("SIGTERM");
  await until(async () => (await get("/readyz")).status === 503, "the worker to drain");
  t.strictSame(await get("/readyz"), { status: 503, text: "the worker is draining\n" });
  t.equal((await get("/healthz")).status, 200);
  t.match((await get("/metrics")).text, 'phase="draining"');
  gate.resolve();
  t.equal(await worker.ended(), "SIGTERM", "the port does not hold it up");
});

void t.test("without its database, and with one of another version, it is not ready", async (t) => {
  const { url, sql, cluster } = await stoppableDatabase(t);
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const pool = makePool(url, { max: 1, statementMs: 10_000 });
  const vitals = makeVitals(log, 1);
  const health = await serveHealth({ host: "127.0.0.1", port: 0 }, { pool, vitals, log });
  t.teardown(() => Promise.all([health.close(), pool.close()]));
  const get = getter(`http://127.0.0.1:${health.port}`);
  t.strictSame(await get("/readyz"), { status: 503, text: "the worker is starting\n" });
  vitals.enter("running");
  t.equal((await get("/readyz")).status, 200);
  await cluster.stop("immediate");
  t.match(await get("/readyz"), { status: 503, text: /^the database does not answer: / });
  t.equal((await get("/healthz")).status, 200);
  const page = series((await get("/metrics")).text);
  t.notOk(page.has("webhookpub_events_pending"));
  t.equal(page.get("webhookpub_worker_leases"), 0);
  await cluster.start();
  await until(async () => (await get("/readyz")).status === 200, "it to be ready again");

  await sql`insert into webhookpub.migrations (name, hash) values ('999999', 'x')`;
  t.match(await get("/readyz"), {
    status: 503,
    text: /^this webhookpub is older than the database: .*999999\n/,
  });
});

void t.test("a worker that can't have its port says so and ends", async (t: Test) => {
  const { url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const taken = new URL(receiver.url()).host;
  for (const [setting, says] of [
    [taken, /WEBHOOKPUB_PORT: .*EADDRINUSE/],
    ["99999", /WEBHOOKPUB_PORT=99999: a port is below 65536/],
    ["http", /WEBHOOKPUB_PORT=http: a port, or address:port/],
  ] as const) {
    const worker = await startWorkerProcess(t, url, { env: { WEBHOOKPUB_PORT: setting } });
    t.not(await worker.ended(), 0, setting);
    t.match(worker.output(), says);
  }
});
