// PgBouncer between us and the database: publishers may come through it in any mode, workers and
// migrate need a session.
import postgres from "postgres";
import t from "tap";
import { SESSION } from "../../src/database/session.ts";
import { testDatabase } from "../support/database.ts";
import { LET_THROUGH, NO_PGBOUNCER, startPgBouncer } from "../support/pgbouncer.ts";
import { runProgram } from "../support/program.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const skip = NO_PGBOUNCER;

void t.test("the documentation names every setting that a pool has to let through", (t) => {
  // These PgBouncer keeps track of by itself.
  const tracked = ["application_name", "datestyle", "timezone", "standard_conforming_strings"];
  for (const name of Object.keys(SESSION)) {
    if (!tracked.includes(name)) t.match(LET_THROUGH, new RegExp(`\\b${name}\\b`), name);
  }
  t.end();
});

for (const mode of ["transaction", "statement"] as const) {
  for (const settings of [[], [LET_THROUGH]]) {
    const how = settings.length > 0 ? "that lets all parameters through" : "as it is shipped";
    void t.test(`worker and migrate refuse a pool in ${mode} mode, ${how}`, { skip }, async (t) => {
      const { url } = await testDatabase(t);
      const pooled = await startPgBouncer(t, url, mode, settings);
      const migrated = await runProgram("src/cli/webhookpub.ts migrate", { DATABASE_URL: pooled });
      t.equal(migrated.code, 1);
      const refusal =
        settings.length > 0
          ? /ERROR: {2}WH033: .*transaction mode.*\nHINT: .*directly/
          : /ERROR: {2}WH033: a pooler refuses .*unsupported startup parameter.*\nHINT: .*directly/;
      t.match(migrated.output, refusal);
      t.notMatch(migrated.output, /^ +at /m, "no stack trace");
      const worker = await startWorkerProcess(t, pooled);
      t.equal(await worker.ended(), 1);
      t.match(worker.output(), refusal);
    });
  }
}

void t.test("a worker works through a pool in session mode", { skip }, async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createWebhook(sql, { url: receiver.url() });
  const pooled = await startPgBouncer(t, url, "session", [LET_THROUGH]);
  const worker = await startWorkerProcess(t, pooled);
  await sql`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
  await until(() => receiver.requests.length === 1, "the delivery");
  worker.kill("SIGTERM");
  t.equal(await worker.ended(), "SIGTERM");
});

void t.test("publishers come through a pool in transaction mode", { skip }, async (t) => {
  const { url, sql } = await testDatabase(t);
  const pooled = await startPgBouncer(t, url, "transaction", ["default_pool_size = 2"]);
  const publishers = postgres(pooled, { max: 8, prepare: false, fetch_types: false });
  t.teardown(() => publishers.end({ timeout: 1 }));
  await Promise.all(
    Array.from({ length: 40 }, (_, i) =>
      publishers.begin(async (tx) => {
        await tx`select webhook_publish_tx('email.sent', 'user_1', '{}', message_id => ${`m_${i}`})`;
        await tx`select webhook_publish('email.sent', 'user_1', '{}')`;
        if (i % 4 === 0) await tx`select webhook_publish_best_effort_tx('no.such', 'user_1', '{}')`;
      }),
    ),
  );
  t.equal((await sql`select from webhookpub.events where message_id like 'm%'`).count, 40);
  t.equal((await sql`select from webhookpub.publish_failures`).count, 10);
});
