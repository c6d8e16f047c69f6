// What keeps a worker from starting is said in a sentence, with what to do, and never as a stack.
import t, { type Test } from "tap";
import { emptyDatabase, testDatabase } from "../support/database.ts";
import { createLogin } from "../support/login.ts";
import { LET_THROUGH, NO_PGBOUNCER, startPgBouncer } from "../support/pgbouncer.ts";
import { runProgram } from "../support/program.ts";

t.jobs = 2;

const WORKERS = {
  "npx graphile-worker": "node_modules/graphile-worker/dist/cli.js",
  "webhookpub start": "src/cli/webhookpub.ts start",
  "webhookpub start --no-migrate": "src/cli/webhookpub.ts start --no-migrate",
} as const;
type Worker = keyof typeof WORKERS;

/** Each of these workers ends by itself, having said only this error and its hint. */
async function refuses(
  t: Test,
  env: Record<string, string>,
  says: RegExp,
  workers: readonly Worker[] = Object.keys(WORKERS) as Worker[],
) {
  for (const name of workers) {
    const { code, output } = await runProgram(WORKERS[name], env);
    t.ok(code !== 0 && code !== null, `${name} ends with ${code}`);
    t.match(output, says, name);
    t.equal(output.match(/ERROR: {2}/g)?.length, 1, `${name} says it once`, { output });
    t.match(output, /ERROR: {2}.*\n(?:DETAIL: {2}.*\n)?HINT: {2}\S/, `${name} says what to do`);
    t.notMatch(output, /^ +at /m, `${name} prints no stack`);
  }
}

for (const mode of ["transaction", "statement"] as const) {
  for (const settings of [[], [LET_THROUGH]]) {
    const how = settings.length > 0 ? "that lets all parameters through" : "as it is shipped";
    void t.test(`behind a pool in ${mode} mode, ${how}`, { skip: NO_PGBOUNCER }, async (t) => {
      const { url } = await testDatabase(t);
      const pooled = await startPgBouncer(t, url, mode, settings);
      const says =
        settings.length > 0
          ? /ERROR: {2}WH033: .*transaction mode.*\nHINT: .*directly/
          : /ERROR: {2}WH033: a pooler refuses .*unsupported startup parameter.*\nHINT: .*directly/;
      await refuses(t, { DATABASE_URL: pooled }, says);
    });
  }
}

void t.test("no server, no such database, nobody of that name", async (t) => {
  const { url } = await testDatabase(t);
  const other = (change: (url: URL) => void) => {
    const changed = new URL(url);
    change(changed);
    return { DATABASE_URL: changed.href };
  };
  await refuses(
    t,
    other((it) => (it.port = "1")),
    /ECONNREFUSED.*\nHINT: .*is it up/,
  );
  await refuses(
    t,
    other((it) => (it.pathname = "/nowhere")),
    /3D000: database "nowhere" does not exist\nHINT: .*create that database/,
  );
  await refuses(
    t,
    other((it) => (it.username = "nobody_here")),
    /28000: role "nobody_here" does not exist\nHINT: .*user and password/,
  );
  await refuses(t, { DATABASE_URL: "mysql://x" }, /WH032: .*\nHINT: /);
});

void t.test("what the command line says goes before the environment", async (t) => {
  const { url } = await testDatabase(t);
  const cli = WORKERS["npx graphile-worker"];
  // As graphile-migrate sets it for what it runs.
  const env = { DATABASE_URL: "postgres://PLEASE:USE@GM_DBURL/INSTEAD" };
  for (const args of [`-c ${url}`, `--connection=${url}`]) {
    const { code, output } = await runProgram(`${cli} --schema-only ${args}`, env);
    t.equal(code, 0, args, { output });
  }
  const { code, output } = await runProgram(`${cli} -c ${url.replace(/[^/]+$/, "nowhere")}`, {
    DATABASE_URL: url,
  });
  t.not(code, 0);
  t.match(output, /3D000: database "nowhere" does not exist\nHINT: /);
});

void t.test("an environment that is wrong, or says nothing of a database", async (t) => {
  const { url } = await testDatabase(t);
  await refuses(
    t,
    { DATABASE_URL: url, WEBHOOKPUB_MAX_IN_FLIGHT: "all" },
    /WH030: .*MAX_IN_FLIGHT=all/,
  );
  await refuses(
    t,
    { DATABASE_URL: url, WEBHOOKPUB_PORT: "192.0.2.1:80" },
    /WH030: .*WEBHOOKPUB_PORT: .*EADDRNOTAVAIL.*\nHINT: .*free/,
  );
  // The other starts a PostgreSQL of its own.
  await refuses(t, {}, /WH030: DATABASE_URL is not set\nHINT: /, ["npx graphile-worker"]);
});

void t.test("a schema that is missing, older, newer or of another state", async (t) => {
  const without: readonly Worker[] = ["npx graphile-worker", "webhookpub start --no-migrate"];
  const empty = await emptyDatabase(t);
  await refuses(
    t,
    { DATABASE_URL: empty.url },
    /WH030: webhookpub is not installed.*\nHINT: {2}Run: npm run migrate/,
    without,
  );
  const { url, sql } = await testDatabase(t);
  await sql`insert into webhookpub.migrations (name, hash) values ('000099', 'x')`;
  await refuses(t, { DATABASE_URL: url }, /WH030: this webhookpub is older than the database/);
  await sql`truncate webhookpub.migrations`;
  await sql`insert into webhookpub.migrations (name, hash) values ('000001', 'x')`;
  await refuses(
    t,
    { DATABASE_URL: url },
    /WH030: the database is older than this webhookpub/,
    without,
  );
});

void t.test("a role that lacks a right", async (t) => {
  const database = await testDatabase(t);
  const { url } = await createLogin(t, database);
  await refuses(t, { DATABASE_URL: url }, /42501: permission denied.*\nHINT: .*webhookpub_worker/, [
    "npx graphile-worker",
    "webhookpub start --no-migrate",
  ]);
  await refuses(t, { DATABASE_URL: url }, /ERROR: {2}(WH031|42501): /, ["webhookpub start"]);
  // It may do what graphile-worker asks of it, and no more.
  const jobs = await createLogin(t, database);
  await database.sql.unsafe(`
    grant usage on schema graphile_worker to ${jobs.role};
    grant select on all tables in schema graphile_worker to ${jobs.role}`);
  await refuses(
    t,
    { DATABASE_URL: jobs.url },
    /42501: permission denied.*\nHINT: .*webhookpub_worker/,
    ["npx graphile-worker", "webhookpub start --no-migrate"],
  );
});
