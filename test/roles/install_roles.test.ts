// Installing the roles, on servers that do not have them yet.
import t, { type Test } from "tap";
import { connect, type Sql } from "../../src/database/connect.ts";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { databaseOf } from "../support/cluster.ts";
import { runProgram } from "../support/program.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { backendOf, untilBlocked } from "../support/waiting.ts";

/** A server of the test's own: roles belong to the whole of it. */
async function server(t: Test) {
  const cluster = await startTemporaryPostgres({
    binaries: process.env["PG_BIN"],
    settings: ["fsync=off"],
  });
  const sessions: Sql[] = [];
  t.teardown(async () => {
    await Promise.all(sessions.map((session) => session.end({ timeout: 1 })));
    await cluster.remove();
  });
  const open = (url: string) => {
    const session = connect(url, { max: 1 });
    sessions.push(session);
    return session;
  };
  const admin = open(cluster.url);
  return {
    admin,
    open,
    /** Makes a role and a database of its own; returns how it connects. */
    async owned(name: string, options = "") {
      await admin.unsafe(`create role ${name} login ${options}`);
      await admin.unsafe(`create database ${name} owner ${name}`);
      const url = new URL(databaseOf(cluster.url, name));
      url.username = name;
      return url.href;
    },
  };
}

const migrate = (url: string) => runProgram("src/migrate.ts", { DATABASE_URL: url });

const ROLES = ["operator", "publisher", "readonly", "tenant", "worker"].map(
  (name) => `webhookpub_${name}`,
);

async function roles(sql: Sql): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select rolname as name from pg_roles where rolname like 'webhookpub\\_%' order by 1`;
  return rows.map((row) => row.name);
}

void t.test("an owner who may not create roles installs everything else", async (t) => {
  const { admin, open, owned } = await server(t);
  const url = await owned("plain");
  const { code, output } = await migrate(url);
  t.equal(code, 0, output);
  t.match(
    output,
    /^WARNING: .*roles.*\nHINT: .*docs\/security\.md.*\nwebhookpub \S+ is installed/m,
  );
  t.strictSame(await roles(admin), []);

  const sql = open(url);
  await createWebhook(sql);
  await publish(sql);
  const [fanned] = await sql`select * from webhookpub.fan_out()`;
  t.match(fanned, { event_count: 1, delivery_count: 1 }, "it works without them");
  t.equal((await sql`select from webhookpub.maintain()`).count > 0, true);

  // Some are not enough; with all of them, either way of going on will do.
  await admin`create role webhookpub_tenant`;
  t.match((await migrate(url)).output, "WARNING");
  for (const role of ROLES) {
    if (role !== "webhookpub_tenant") await admin.unsafe(`create role ${role}`);
  }
  t.strictSame([...(await sql`select webhookpub.install_roles()`)], [{ install_roles: true }]);
  t.notMatch((await migrate(url)).output, "WARNING");
  const [may] = await sql`
    select
      has_function_privilege('webhookpub_worker', 'webhookpub.maintain()', 'execute') as worker,
      has_table_privilege('webhookpub_tenant', 'webhookpub.events', 'select') as tenant`;
  t.strictSame(may, { worker: true, tenant: true });
});

void t.test("an owner who may create roles installs them", async (t) => {
  const { admin, owned } = await server(t);
  const { code, output } = await migrate(await owned("creating", "createrole"));
  t.equal(code, 0, output);
  t.notMatch(output, "WARNING");
  t.strictSame(await roles(admin), ROLES);
  const others = await migrate(await owned("other"));
  t.notMatch(others.output, "WARNING", "another owner's database shares them");
});

void t.test("two databases of a server may be installed at once", async (t) => {
  const { admin, open, owned } = await server(t);
  const urls = [await owned("first"), await owned("second")];
  for (const url of urls) t.match((await migrate(url)).output, "WARNING");
  await admin`alter role first createrole`;
  await admin`alter role second createrole`;
  const [first, second] = urls.map(open) as [Sql, Sql];
  await first`begin`;
  await first`select webhookpub.install_roles()`;
  const pid = await backendOf(second);
  const waiting = second`select webhookpub.install_roles() as installed`.execute();
  await untilBlocked(admin, pid);
  await first`commit`;
  t.strictSame([...(await waiting)], [{ installed: true }]);
  t.strictSame(await roles(admin), ROLES);
});
