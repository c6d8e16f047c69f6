import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { testDatabase } from "./support/database.ts";
import { startReceiver } from "./support/receiver.ts";
import { createWebhook, publish } from "./support/scene.ts";
import { startWorkerProcess } from "./support/worker_process.ts";

void t.test("a tick does not read what has been due for long", async (t) => {
  const { sql, session } = await testDatabase(t);
  const ticker = session();
  const wake = () => ticker`select webhookpub.wake('1 second')`;
  await createWebhook(sql, { userId: "healthy" });
  await createWebhook(sql, { userId: "late", maxInFlight: 1 });
  await createWebhook(sql, { userId: "late", maxInFlight: 1 });
  // Often enough for plans that the session keeps, of when the tables were empty.
  await sql`analyze webhookpub.deliveries`;
  for (let i = 0; i < 12; i += 1) {
    await publish(sql, { userId: "healthy" });
    await sql`select webhookpub.fan_out()`;
    await wake();
    await sql`update webhookpub.deliveries set status = 'cancelled', next_attempt_at = null`;
  }
  await publish(sql, { userId: "late", count: 10_000 });
  await sql`select webhookpub.fan_out(10000)`;
  await sql`
    update webhookpub.deliveries set next_attempt_at = now() - interval '1 hour'
    where status = 'pending'`;
  await sql`
    select from webhookpub.lease_deliveries(array(
      select id from webhookpub.webhooks where user_id = 'late'
    ))`;
  await publish(sql, { userId: "healthy" });
  await sql`select webhookpub.fan_out()`;
  await sql`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;

  await ticker`begin`;
  await wake();
  const [read] = await ticker<[{ rows: number }]>`
    select (seq_tup_read + idx_tup_fetch)::integer as rows
    from pg_stat_xact_user_tables where relid = 'webhookpub.deliveries'::regclass`;
  await ticker`commit`;
  t.ok(read.rows < 1000, `${read.rows} rows of 20,000`);
  t.equal((await sql`select from graphile_worker.jobs`).count, 1, "the healthy one is woken");
});

void t.test("what ticks do not come to, a worker finds soon, without the crontab", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const folder = await mkdtemp(join(tmpdir(), "crontab-"));
  t.teardown(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, "crontab"), "");
  await startWorkerProcess(t, url, { args: ["--crontab", join(folder, "crontab")] });
  await createWebhook(sql, { url: receiver.url() });
  await publish(sql);
  await receiver.received(1);

  // Due for long, and no job says so.
  await sql.begin(async (tx) => {
    await publish(tx);
    await tx`select webhookpub.fan_out()`;
    await tx`
      update webhookpub.deliveries set next_attempt_at = now() - interval '1 hour'
      where status = 'pending'`;
    await tx`
      select graphile_worker.complete_jobs(array(
        select id from graphile_worker.jobs where task_identifier = 'webhook_deliver'
      ))`;
  });
  await receiver.received(2);
});
