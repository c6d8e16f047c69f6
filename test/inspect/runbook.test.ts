// Whoever is woken at night is an operator, or may only look, and finds that the pages work.
import postgres from "postgres";
import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { freshDatabase, PRELUDE, runBlock } from "../support/documented.ts";
import { createLogin } from "../support/login.ts";
import { readPage, sqlBlocks } from "../support/markdown.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { backendOf } from "../support/waiting.ts";

const PAGES = ["docs/operations.md", "docs/psql.md", "docs/monitoring.md", "docs/locks.md"];

/** What becomes of a block in a transaction that leaves no trace: an SQLSTATE, or that it ran. */
async function attempt(
  t: Test,
  session: Sql,
  block: string,
  mode: "read only" | "read write" = "read write",
): Promise<string> {
  try {
    await session.begin(mode, async (tx) => {
      await runBlock(t, tx, block);
      throw new Error("undo");
    });
  } catch (error) {
    if (error instanceof postgres.PostgresError) return error.code;
    if ((error as Error).message !== "undo") throw error;
  }
  return "done";
}

for (const path of PAGES) {
  void t.test(`${path}: an operator runs all of it, and readonly what only looks`, async (t) => {
    const database = await freshDatabase(t);
    const owner = database.session();
    await runBlock(t, owner, PRELUDE);
    const operator = await createLogin(t, database, "webhookpub_operator");
    const readonly = await createLogin(t, database, "webhookpub_readonly");
    const blocks = sqlBlocks(await readPage(path));
    t.ok(blocks.length > 0);
    for (const block of blocks) {
      const forOwner = block.startsWith("-- As the owner.\n");
      t.equal(await attempt(t, operator.sql, block), forOwner ? "42501" : "done", block);
      const looks = (await attempt(t, owner, block, "read only")) === "done";
      t.equal(await attempt(t, readonly.sql, block), looks ? "done" : "42501", block);
      await runBlock(t, owner, block);
    }
  });
}

void t.test("of a host's jobs and of what sessions say nothing is shown", async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  const { id } = await createWebhook(sql);
  await publish(sql);
  await sql`select webhookpub.fan_out()`;
  await sql`select graphile_worker.add_job('send_invoice', '{"card": "hush"}', job_key => 'hush')`;
  const other = database.session();
  const pid = await backendOf(other);
  const readonly = await createLogin(t, database, "webhookpub_readonly");
  const host = await createLogin(t, database);
  await other.begin(async (tx) => {
    await tx`select 'hush', * from webhookpub.webhooks for update`;
    const jobs = await readonly.sql`select * from webhookpub.jobs`;
    t.match([...jobs], [{ task: "webhook_deliver", webhook_id: id, attempts: 0 }]);
    t.equal(jobs.length, 1);
    const sessions = await readonly.sql`select * from webhookpub.sessions where pid = ${pid}`;
    t.match([...sessions], [{ state: "idle in transaction", transaction_began_at: /./ }]);
    t.notMatch(JSON.stringify([jobs, sessions]), "hush");
  });
  for (const view of ["jobs", "sessions", "partitions"]) {
    t.equal(await attempt(t, host.sql, `select * from webhookpub.${view}`), "42501", view);
  }
});

void t.test("partitions says when rows had to go to DEFAULT", async (t) => {
  const database = await testDatabase(t);
  const readonly = await createLogin(t, database, "webhookpub_readonly");
  const strays = async () => {
    const rows = await readonly.sql<{ table_name: string; has_strays: boolean; days: number }[]>`
      select p.table_name, bool_or(p.has_strays) as has_strays,
        (max(p.last_day) - min(p.first_day))::integer as days
      from webhookpub.partitions as p
      group by p.table_name
      order by p.table_name`;
    return [...rows];
  };
  const [attempts, envelopes] = await strays();
  t.match(attempts, { table_name: "attempts", has_strays: false });
  t.match(envelopes, { table_name: "envelopes", has_strays: false });
  t.ok(attempts!.days >= 14, `${attempts!.days} days`);
  await database.sql`
    insert into webhookpub.attempts
      (delivery_id, attempt, started_at, duration_ms, outcome, status_code, webhook_id)
    values ('whd_1', 1, now() + interval '1 year', 1, 'responded', 200, 'wh_1')`;
  t.match(await strays(), [{ has_strays: true }, { has_strays: false }]);
});
