// Copies of a database: one for staging sends nothing to real receivers, and one that takes over
// goes on where the other has stopped.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { root } from "../../src/config.ts";
import { connect } from "../../src/database/connect.ts";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { migrate } from "../../src/migrate.ts";
import { databaseOf } from "../support/cluster.ts";
import { emptyDatabase, testDatabase } from "../support/database.ts";
import { NO_DUMP, pgProgram } from "../support/dump.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** The SQL blocks of a section of docs/backup.md. */
async function backupBlocks(heading: string): Promise<string[]> {
  const text = await readFile(join(root, "docs/backup.md"), "utf8");
  const section = text.slice(text.indexOf(heading) + heading.length).split(/^## /m)[0] ?? "";
  return [...section.matchAll(/^```text\n([^]*?)^```$/gm)].map(([, block = ""]) => block);
}

void t.test("nothing is sent while deliver_enabled is false, and all of it after", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const { id } = await createWebhook(sql, { url: receiver.url() });
  await publish(sql, { count: 3 });
  await fanOutAll(sql);
  await sql`update webhookpub.settings set deliver_enabled = false`;
  await startWorkerProcess(t, url);
  // Of a webhook with nothing else waiting: a fan-out might send it at once.
  await createWebhook(sql, { userId: "user_2", url: receiver.url() });
  await publish(sql, { count: 2, userId: "user_2" });
  await until(
    async () => (await sql`select from webhookpub.events where status = 'pending'`).count === 0,
    "the fan-out, which goes on",
  );
  t.equal((await sql`select from webhookpub.lease_deliveries(${[id]})`).count, 0);
  t.equal(receiver.requests.length, 0);
  await t.resolveMatch(sql`select attempts from webhookpub.deliveries`, [
    { attempts: 0 },
    { attempts: 0 },
    { attempts: 0 },
    { attempts: 0 },
    { attempts: 0 },
  ]);
  t.match([...(await sql`select * from webhookpub.diagnose()`)], [{ topic: "deliveries" }]);
  await sql`update webhookpub.settings set deliver_enabled = true`;
  await receiver.received(5);
});

void t.test("a copy is silent from its first moment", { skip: NO_DUMP }, async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await createWebhook(sql, { url: receiver.url() });
  await publish(sql, { count: 3 });
  await fanOutAll(sql);
  const directory = await mkdtemp(join(tmpdir(), "dump-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const file = join(directory, "dump");
  await pgProgram("pg_dump", ["-Fc", "-f", file, url]);

  const copy = await emptyDatabase(t);
  const name = new URL(copy.url).pathname.slice(1);
  await copy.sql.unsafe(`alter database ${name} set webhookpub.deliver_enabled = off`);
  await pgProgram("pg_restore", ["-d", copy.url, file]);
  const worker = await startWorkerProcess(t, copy.url);
  const session = copy.session();
  await publish(session);
  await until(
    async () => (await session`select from webhookpub.events where status = 'pending'`).count === 0,
    "the copy to fan out",
  );
  t.equal(receiver.requests.length, 0);
  worker.kill("SIGTERM");
  await worker.ended();
  t.equal(receiver.requests.length, 0);
  // Somebody means it: the copy is the original from now on.
  await copy.sql.unsafe(`alter database ${name} reset webhookpub.deliver_enabled`);
  await startWorkerProcess(t, copy.url);
  await receiver.received(4);
});

void t.test("logical replication makes a copy that can take over", async (t: Test) => {
  const server = async () => {
    const cluster = await startTemporaryPostgres({
      binaries: process.env["PG_BIN"],
      settings: ["fsync=off", "wal_level=logical", "max_connections=50"],
    });
    const admin = connect(cluster.url, { max: 1 });
    await admin`create database shop`;
    await admin.end();
    const url = databaseOf(cluster.url, "shop");
    await migrate(url, () => {});
    const sql = connect(url, { max: 2 });
    t.teardown(async () => {
      await sql.end({ timeout: 1 });
      await cluster.remove();
    });
    return { url, sql };
  };
  const [from, to] = [await server(), await server()];
  const receiver = await startReceiver(t);
  const allow = { allow_http: true, allowed_networks: "{127.0.0.0/8}" };
  await from.sql`update webhookpub.settings set ${from.sql(allow)}`;
  await from.sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  const { id } = await createWebhook(from.sql, { url: receiver.url(), events: "{*}" });
  await publish(from.sql, { count: 2 });
  await fanOutAll(from.sql);
  await publish(from.sql, { count: 1 });

  // What docs/backup.md says to do at either side.
  const blocks = await backupBlocks("## Moving to another server");
  const [source = "", target = "", rest = ""] = blocks;
  const { hostname, port } = new URL(from.url);
  await from.sql.unsafe(source);
  for (const statement of target
    .replace("host=old", `host=${hostname} port=${port} user=postgres`)
    .split(/;$/m)) {
    await to.sql.unsafe(statement);
  }
  await publish(from.sql, { type: "order.paid" });
  const [{ lsn }] = await from.sql<[{ lsn: string }]>`select pg_current_wal_lsn()::text as lsn`;
  await until(
    async () =>
      (
        await to.sql`
          select from pg_stat_subscription as s
          where s.latest_end_lsn >= ${lsn}::pg_lsn
            and not exists (select from pg_subscription_rel where srsubstate <> 'r')`
      ).count > 0,
    "all to arrive",
  );
  for (const statement of rest.split(/;$/m)) await to.sql.unsafe(statement);
  await migrate(to.url, () => {});
  await startWorkerProcess(t, to.url);
  await receiver.received(4);
  await publish(to.sql, { type: "order.paid" });
  await receiver.received(5);
  await to.sql`select webhookpub.rotate_secret(${id})`;
});
