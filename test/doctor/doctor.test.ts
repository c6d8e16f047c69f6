// webhookpub doctor: each fault is made, and has to be found; a healthy database has none.
import t, { type Test } from "tap";
import { examine } from "../../src/doctor.ts";
import type { Sql } from "../../src/database/connect.ts";
import { emptyDatabase, testDatabase } from "../support/database.ts";
import { freePort } from "../../src/free_port.ts";
import { createLogin } from "../support/login.ts";
import { LET_THROUGH, NO_PGBOUNCER, startPgBouncer } from "../support/pgbouncer.ts";
import { runProgram } from "../support/program.ts";
import { untilNoSessions } from "../support/waiting.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const doctor = (url: string, flags = "") =>
  runProgram(`src/cli/webhookpub.ts doctor ${flags}`.trim(), { DATABASE_URL: url });

/** What SQL finds, as topic: finding. */
async function findings(sql: Sql): Promise<string[]> {
  const rows = await sql<{ topic: string; finding: string; advice: string }[]>`
    select * from webhookpub.diagnose()`;
  for (const { advice } of rows) t.ok(advice.length > 5, advice);
  return rows.map(({ topic, finding }) => `${topic}: ${finding}`);
}

void t.test(
  "a database with a worker is well; without one, that is the only finding",
  async (t) => {
    const { url, sql } = await testDatabase(t);
    // Its sessions call themselves what a worker's do.
    await sql.end();
    const other = (await emptyDatabase(t)).session();
    await untilNoSessions(other, new URL(url).pathname.slice(1), "webhookpub");
    const alone = await doctor(url);
    t.equal(alone.code, 1, alone.output);
    t.match(
      alone.output,
      /^webhookpub \S+ on PostgreSQL \S+.*:\nworkers: none is connected\n {2}-> start one\n$/,
    );
    await startWorkerProcess(t, url);
    const well = await doctor(url);
    t.equal(well.code, 0, well.output);
    t.match(well.output, /: all is well\n$/);
    const json = await doctor(url, "--json");
    t.match(JSON.parse(json.output), { webhookpub: /^\d/, postgres: /^\d/, findings: [] });
  },
);

void t.test("what it can't look at is exit code 2, what is not there a finding", async (t) => {
  const nowhere = await doctor(`postgres://127.0.0.1:${await freePort()}/app`);
  t.equal(nowhere.code, 2);
  t.match(nowhere.output, /^ERROR: {2}ECONNREFUSED/);
  t.equal((await doctor("")).code, 2, "no DATABASE_URL");
  const { url } = await emptyDatabase(t);
  const empty = await doctor(url);
  t.equal(empty.code, 1);
  t.match(empty.output, /schema: webhookpub is not installed[^]*-> Run: npm run migrate/);
  const database = await testDatabase(t);
  await database.sql`update webhookpub.migrations set name = '999999'`;
  t.match((await examine(database.url)).findings, [
    { topic: "schema", finding: /this webhookpub is older than the database/ },
  ]);
  const stranger = await createLogin(t, database);
  t.equal((await doctor(stranger.url)).code, 2, "who may not look");
});

/** A fault, and the finding that it has to be. */
const FAULTS: readonly { what: string; make(sql: Sql, t: Test): Promise<unknown>; says: RegExp }[] =
  [
    {
      what: "publishing is off",
      make: (sql) => sql`update webhookpub.settings set publish_enabled = false`,
      says: /^publishing: it is off/,
    },
    {
      what: "the best-effort path failed",
      make: (sql) => sql`select webhook_publish_best_effort_tx('no.such', 'user_1', '{}')`,
      says: /^publishing: the best-effort path/,
    },
    {
      what: "an event waits",
      make: (sql) =>
        sql`
        with published as (select webhook_publish_tx('email.sent', 'user_1', '{}') as id)
        select id from published`.then(
          () => sql`update webhookpub.events set created_at = now() - interval '2 minutes'`,
        ),
      says: /^fan-out: the oldest pending event has waited for 00:0[2-9]/,
    },
    {
      what: "an event fails",
      make: async (sql) => {
        await sql`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
        await sql`
          update webhookpub.events
          set attempts = 1, last_error = 'out of memory', retry_at = now() + interval '1 hour'`;
      },
      says: /^fan-out: 1 events fail/,
    },
    {
      what: "a task fails",
      make: async (sql) => {
        await sql`select graphile_worker.add_job('webhook_maintain', job_key => 'webhook_maintain')`;
        await sql`update graphile_worker._private_jobs set last_error = 'it broke', attempts = 2`;
      },
      says: /^jobs: 1 tasks fail: it broke/,
    },
    {
      what: "functions are gone",
      make: (sql) => sql`drop function public.webhook_publish`,
      says: /^schema: functions for publishing/,
    },
    {
      what: "PUBLIC may call a function",
      make: (sql) => sql`grant execute on function webhookpub.rotate_secret to public`,
      says: /^privileges: PUBLIC: EXECUTE on routine webhookpub\.rotate_secret/,
    },
    {
      what: "nobody does upkeep",
      make: (sql) => sql`update webhookpub.upkeep set finished_at = now() - interval '11 minutes'`,
      says: /^upkeep: it was last done at /,
    },
    {
      what: "partitions end",
      make: async (sql) => {
        const partitions = await sql<{ name: string }[]>`
          select i.inhrelid::regclass::text as name
          from pg_inherits as i
          where i.inhparent = 'webhookpub.attempts'::regclass
            and i.inhrelid::regclass::text !~ 'default'
            and to_date(right(i.inhrelid::regclass::text, 8), 'YYYYMMDD') > now() + interval '1 day'`;
        for (const { name } of partitions) await sql.unsafe(`drop table ${name}`);
      },
      says: /^upkeep: partitions end in /,
    },
    {
      what: "the database is read-only",
      make: async (sql) => {
        await sql`
          do $$ begin execute format('alter database %I set default_transaction_read_only = on',
            current_database()); end $$`;
      },
      says: /^server: it is read-only/,
    },
  ];

for (const { what, make, says } of FAULTS) {
  void t.test(`it finds that ${what}`, async (t) => {
    const { sql, session } = await testDatabase(t);
    await make(sql, t);
    const found = await findings(session());
    t.ok(
      found.some((line) => says.test(line)),
      found.join("\n"),
    );
  });
}

void t.test("it finds transactions that stay open", async (t) => {
  const { sql, session } = await testDatabase(t);
  const [{ definition }] = await sql<[{ definition: string }]>`
    select pg_get_functiondef('webhookpub.diagnose_server()'::regprocedure) as definition`;
  // An hour is more than a test has.
  await sql.unsafe(definition.replaceAll("interval '1 hour'", "interval '1 millisecond'"));
  const open = session();
  await open`begin`;
  const [{ pid }] = await open<[{ pid: number }]>`select pg_backend_pid() as pid`;
  const found = await findings(session());
  t.ok(
    found.some((line) => line.startsWith(`transactions: process ${pid} has one open since `)),
    found.join("\n"),
  );
  await open`rollback`;
});

void t.test("it finds PgBouncer in transaction mode", { skip: NO_PGBOUNCER }, async (t) => {
  const { url } = await testDatabase(t);
  const through = await startPgBouncer(t, url, "transaction", [LET_THROUGH]);
  const { code, output } = await doctor(through);
  t.equal(code, 1, output);
  t.match(output, /^pooler: .*transaction mode[^]*-> /m);
});
