// Where a secret is not: in no log, no view, no statistics, no error, no dump.
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type postgres from "postgres";
import t, { type Test } from "tap";
import { connect, type Sql } from "../../src/database/connect.ts";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { migrate } from "../../src/migrate.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** A value of a custom header: not a secret of ours, but of somebody's. */
const CREDENTIAL = "Bearer 5ebe2294ecd0e0f08eab7690d2a6ee69";

/** A server of the test's own, installed. */
async function server(t: Test, binaries: string | undefined, settings: readonly string[]) {
  const cluster = await startTemporaryPostgres({ binaries, settings: ["fsync=off", ...settings] });
  await migrate(cluster.url, () => {});
  const sql = connect(cluster.url, { max: 2 });
  t.teardown(async () => {
    await sql.end({ timeout: 1 });
    await cluster.remove();
  });
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  return { ...cluster, sql };
}

/** Every secret that was ever made, and the ways in which one could be written down. */
class Secrets {
  readonly #all = new Set<string>();

  add(secret: string): void {
    this.#all.add(secret);
  }

  /** Those that a text gives away. */
  in(text: string): string[] {
    return [...this.#all].filter((secret) => {
      const base64 = secret.replace("whsec_", "");
      const hex = Buffer.from(base64, "base64").toString("hex");
      const textHex = Buffer.from(base64).toString("hex");
      return [base64, hex, textHex].some((form) => text.includes(form));
    });
  }
}

/** All rows of a table or view, as text. */
async function textOf(sql: Sql, name: string): Promise<string> {
  const rows = await sql<{ row: string }[]>`select r::text as row from ${sql(name)} as r`;
  return rows.map((one) => one.row).join("\n");
}

/** The tables and views of some schemas, but for the one that is to hold the secrets. */
async function relations(sql: Sql): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select format('%s.%s', c.relnamespace::regnamespace, c.relname) as name
    from pg_class as c
    where c.relnamespace in ('webhookpub'::regnamespace, 'graphile_worker'::regnamespace)
      and c.relkind in ('r', 'p', 'v', 'm')
      and c.oid <> 'webhookpub.secrets'::regclass`;
  return rows.map((row) => row.name);
}

/** Everything that an error says. */
function wholeError(error: postgres.PostgresError): string {
  return JSON.stringify(error, Object.getOwnPropertyNames(error));
}

void t.test("no log, table, view, statistic or error has a secret in it", async (t) => {
  const { sql, url, directory } = await server(t, process.env["PG_BIN"], [
    "log_statement=all",
    "log_min_duration_statement=0",
    "log_error_verbosity=verbose",
    "session_preload_libraries=auto_explain",
    "auto_explain.log_min_duration=0",
    "auto_explain.log_nested_statements=on",
    "auto_explain.log_verbose=on",
  ]);
  const secrets = new Secrets();
  const receiver = await startReceiver(t);
  const replies = { "/ok": 200, "/failing": 500, "/reset": "reset", "/hang": "hang" } as const;
  receiver.reply = ({ path }) => replies[path as keyof typeof replies] ?? 410;
  const worker = await startWorkerProcess(t, url, { env: { GRAPHILE_LOGGER_DEBUG: "1" } });

  const webhooks: string[] = [];
  for (const [i, path] of [...Object.keys(replies), "/gone"].entries()) {
    const { id, secret } = await createWebhook(sql, {
      url: receiver.url(path),
      scheme: i % 2 === 0 ? "standard" : "stripe",
      headers: JSON.stringify({ authorization: CREDENTIAL }),
      retrySchedule: "{100 ms}",
      requestTimeout: "300 ms",
    });
    secrets.add(secret);
    webhooks.push(id);
  }
  for (const grace of ["1 hour", "0"]) {
    for (const id of webhooks) {
      const [row] = await sql<[{ secret: string }]>`
        select webhookpub.rotate_secret(${id}, ${grace}) as secret`;
      secrets.add(row.secret);
      await publish(sql);
    }
  }
  await until(
    async () =>
      (await sql`select distinct webhook_id from webhookpub.attempts`).count === webhooks.length,
    "an answer, or none, of each kind",
  );
  // What a worker says about errors of the database.
  await sql`alter table webhookpub.attempts rename to attempts_away`;
  await publish(sql);
  await until(() => worker.output().includes("attempts"), "the worker to complain");
  await sql`alter table webhookpub.attempts_away rename to attempts`;

  const errors: string[] = [];
  const fails = async (query: PromiseLike<unknown>) => {
    await t.rejects(
      Promise.resolve(query).catch((error: postgres.PostgresError) => {
        errors.push(wholeError(error));
        throw error;
      }),
    );
  };
  const first = webhooks[0] ?? "";
  const headers = JSON.stringify({
    authorization: CREDENTIAL,
    host: CREDENTIAL,
    "x-a": [CREDENTIAL],
  });
  await fails(createWebhook(sql, { headers }));
  await fails(
    sql`select webhookpub.update_webhook(${first}, p_headers => ${headers}::text::jsonb)`,
  );
  await fails(sql`select webhookpub.rotate_secret(${first}, '31 days')`);
  await sql.unsafe(`
    create function public.tg_fail () returns trigger language plpgsql as $$
    begin raise exception 'no'; end; $$;
    create trigger fail after insert on webhookpub.secrets
      for each row execute function public.tg_fail()`);
  await fails(sql`select webhookpub.rotate_secret(${first})`);
  await fails(createWebhook(sql));
  await sql`drop trigger fail on webhookpub.secrets`;
  t.match(errors[3], "insert into webhookpub.secrets", "errors tell a lot");

  worker.kill("SIGTERM");
  await worker.ended();
  await sql`analyze`;
  const there = secrets.in(await textOf(sql, "webhookpub.secrets"));
  t.equal(there.length, webhooks.length, "the current ones are in their table");
  const statistics = await textOf(sql, "pg_catalog.pg_stats");
  t.match(statistics, "secrets", "there are statistics of their table");
  t.strictSame(secrets.in(statistics), [], "statistics");
  for (const name of await relations(sql)) {
    const text = await textOf(sql, name);
    t.strictSame(secrets.in(text), [], name);
    if (name !== "webhookpub.webhooks") t.notMatch(text, CREDENTIAL, name);
  }
  for (const text of errors) {
    t.strictSame(secrets.in(text), [], "an error");
    t.notMatch(text.replace(/"(?:query|parameters|args)":.*/, ""), CREDENTIAL);
  }
  t.match(worker.output(), /^debug: /m, "the worker says all that it can");
  t.strictSame(secrets.in(worker.output()), [], "the worker's log");
  t.notMatch(worker.output(), CREDENTIAL);
  const log = await readFile(join(directory, "server.log"), "utf8");
  t.match(log, "webhookpub.rotate_secret");
  t.match(log, "insert into webhookpub.secrets", "the server says even what functions do");
  t.match(log, "webhookpub.lease_deliveries");
  t.strictSame(secrets.in(log), [], "the server's log");
});

/** A directory with both a server and the pg_dump of its version. */
const dumping = [
  process.env["PG_BIN"],
  ...[18, 17, 16, 15].map((version) => `/usr/lib/postgresql/${version}/bin`),
].find(
  (folder) =>
    folder !== undefined && ["pg_dump", "postgres"].every((name) => existsSync(join(folder, name))),
);

void t.test(
  "a dump without the data of webhookpub.secrets has none",
  { skip: dumping === undefined && "there is no pg_dump here; the embedded PostgreSQL has none" },
  async (t) => {
    const { sql, url } = await server(t, dumping, []);
    const secrets = new Secrets();
    const { id, secret } = await createWebhook(sql);
    secrets.add(secret);
    const [row] = await sql<[{ secret: string }]>`select webhookpub.rotate_secret(${id}) as secret`;
    secrets.add(row.secret);
    await publish(sql);
    await sql`select webhookpub.fan_out()`;
    await sql`select webhookpub.lease_deliveries(${[id]})`;

    const dump = async (...args: string[]) =>
      (await promisify(execFile)(join(dumping ?? "", "pg_dump"), ["-d", url, ...args])).stdout;
    const whole = await dump();
    t.equal(secrets.in(whole).length, 2, "a whole dump has both");
    const without = await dump("--exclude-table-data=webhookpub.secrets");
    t.match(without, id);
    t.strictSame(secrets.in(without), []);
  },
);
