// The log of a worker process, from its start to its end.
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { z } from "zod";
import { makeVitals } from "../../src/vitals.ts";
import { makeWakeUp } from "../../src/wake_up.ts";
import { stoppableDatabase, testDatabase } from "../support/database.ts";
import { createLogin } from "../support/login.ts";
import { readPage } from "../support/markdown.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const Line = z.looseObject({
  time: z.iso.datetime(),
  level: z.enum(["debug", "info", "warning", "error"]),
  message: z.string(),
  event: z.string().optional(),
});

/** What must never be in a log, by what it is. */
const PRIVATE = {
  header: "header-7f3a9c",
  body: "payload-7f3a9c",
  answer: "answer-7f3a9c",
  path: "path-7f3a9c",
};

/** A worker's whole life, with all that may happen in it; what it has logged. */
async function live(t: Test, env: Record<string, string>) {
  const database = await testDatabase(t);
  const { sql } = database;
  const login = await createLogin(t, database, "webhookpub_worker");
  const receiver = await startReceiver(t);
  let reachable = false;
  receiver.reply = ({ path }) => {
    if (path.includes("silent") && !reachable) return "reset";
    const status = path.includes("gone") ? 410 : path.includes("bad") ? 500 : 200;
    return { status, body: PRIVATE.answer, headers: { "x-answer": PRIVATE.answer } };
  };
  const secrets: string[] = [];
  const webhook = async (name: string, scheme: "standard" | "stripe" = "standard") => {
    const { id, secret } = await createWebhook(sql, {
      url: receiver.url(`/${name}?${PRIVATE.path}`),
      headers: JSON.stringify({ "x-key": PRIVATE.header }),
      scheme,
      retrySchedule: "{1 h}",
    });
    secrets.push(secret, secret.replace("whsec_", ""));
    return id;
  };
  const worker = await startWorkerProcess(t, login.url, {
    env: { GRAPHILE_LOGGER_DEBUG: "1", ...env },
  });
  const logged = async (...texts: string[]) => {
    for (const text of texts) await until(() => worker.output().includes(text), text);
  };
  await webhook("good");
  await webhook("bad", "stripe");
  const gone = await webhook("gone");
  const silent = await webhook("silent");
  // Many: what answers say of a circuit is lost while another record holds the webhook.
  await publish(sql, { count: 40, data: JSON.stringify({ text: PRIVATE.body }) });
  await logged(`webhook disabled: ${gone}: gone`, `circuit opened: ${silent}`);
  // It is told of before it is committed.
  await until(
    async () =>
      (
        await sql`
        select from webhookpub.webhooks where id = ${silent} and circuit_opened_at is not null`
      ).count > 0,
    "the circuit to be open",
  );
  reachable = true;
  // Answers that came late may put its next probe off again.
  await until(async () => {
    await sql`
      update webhookpub.webhooks set circuit_retry_at = now()
      where id = ${silent} and circuit_opened_at is not null`;
    await publish(sql);
    await sleep(500);
    return worker.output().includes(`circuit closed: ${silent}`);
  }, "the circuit to close");
  await sql`
    select webhookpub.drop_partitions('webhookpub.attempts', now() + interval '10 days'),
      graphile_worker.add_job('webhook_maintain')`;
  await logged("upkeep: create_partitions");
  worker.kill("SIGTERM");
  await worker.ended();
  return { output: worker.output(), secrets, gone };
}

/** What of this is in a log that must not be. */
function leaks(output: string, secrets: readonly string[]): string[] {
  const found = Object.entries(PRIVATE).filter(([, text]) => output.includes(text));
  const signed = /whsec_|v1[,=]\S/.test(output) ? ["signature"] : [];
  const shown = secrets.some((secret) => output.includes(secret)) ? ["secret"] : [];
  return [...found.map(([name]) => name), ...signed, ...shown];
}

void t.test(
  "as JSON: each change of state and each attempt in one line, nothing private",
  async (t) => {
    const { output, secrets, gone } = await live(t, { WEBHOOKPUB_LOG: "json" });
    const lines = output
      .trim()
      .split("\n")
      .map((line) => Line.parse(JSON.parse(line)));
    const of = (event: string) => lines.filter((line) => line.event === event);
    for (const event of [
      "worker_running",
      "worker_draining",
      "worker_stopped",
      "webhook_disabled",
      "circuit_opened",
      "circuit_closed",
    ]) {
      t.equal(of(event).length, 1, event);
    }
    const { text } = await readPage("docs/monitoring.md");
    const unknown = lines.filter(({ event }) => event && !text.includes(`\`${event}\``));
    t.strictSame(unknown, [], "the documentation names each event");
    t.match(of("webhook_disabled"), [{ level: "info", webhook_id: gone, reason: "gone" }]);
    const upkeep = of("upkeep_done").find((line) => "create_partitions" in line);
    t.match(upkeep, { level: "info", create_partitions: Number });
    const attempts = of("attempt");
    t.ok(attempts.every(({ level }) => level === "debug"));
    t.ok(attempts.filter((line) => line["status_code"] === 500).length >= 5, "each attempt");
    t.match(
      attempts.find((line) => line["webhook_id"] === gone),
      {
        message: /^attempt 1 of whd_\S+: 410, \d+ ms$/,
        delivery_id: /^whd_/,
        attempt: 1,
        outcome: "responded",
        status_code: 410,
        duration_ms: Number,
      },
    );
    t.strictSame(leaks(output, secrets), []);
  },
);

void t.test("as text: the same, for people", async (t) => {
  const { output, secrets } = await live(t, {});
  t.match(output, /^info: worker running$/m);
  t.match(output, /^info: worker draining$/m);
  t.match(output, /^info: worker stopped$/m);
  t.match(output, /^debug: attempt 1 of whd_\S+: 200, \d+ ms$/m);
  t.strictSame(leaks(output, secrets), []);
});

void t.test("that the database is lost, and that it is back, is said once", async (t) => {
  const { url, cluster } = await stoppableDatabase(t);
  const lines: unknown[] = [];
  const hear = (level: string) => (message: string, fields?: object) =>
    void lines.push({ level, message, ...fields });
  const log = {
    debug: hear("debug"),
    info: hear("info"),
    warn: hear("warning"),
    error: hear("error"),
  };
  let ticks = 0;
  const wakeUp = makeWakeUp(url, makeVitals(log, 1), {
    onEvents() {},
    onTick: () => void (ticks += 1),
  });
  t.teardown(() => wakeUp.stop());
  await until(() => ticks > 1, "ticks");
  t.strictSame(lines, []);
  await cluster.stop("immediate");
  await until(() => lines.length === 1, "its loss");
  t.match(lines, [{ level: "warning", event: "database_lost", message: /^database lost: ./ }]);
  await cluster.start();
  await until(() => lines.length === 2, "its return");
  t.match(lines[1], { level: "info", event: "database_back", seconds: Number });
  const before = ticks;
  await until(() => ticks > before + 1, "more ticks");
  t.equal(lines.length, 2);
});

void t.test("an unknown format is refused", async (t) => {
  const { url } = await testDatabase(t);
  const worker = await startWorkerProcess(t, url, { env: { WEBHOOKPUB_LOG: "xml" } });
  t.not(await worker.ended(), 0);
  t.match(worker.output(), /WEBHOOKPUB_LOG=xml: /);
});
