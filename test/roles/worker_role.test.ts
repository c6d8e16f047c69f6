// The programs of an installation, each as a login role of its own: the owner that installs,
// the worker, the application that publishes. None is a superuser.
import { Webhook } from "standardwebhooks";
import t, { type Test } from "tap";
import { emptyDatabase, type TestDatabase } from "../support/database.ts";
import { createLogin, type Login } from "../support/login.ts";
import { runProgram } from "../support/program.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** webhookpub as somebody without special rights installs it: in a database of their own. */
async function installation(t: Test): Promise<{ database: TestDatabase; owner: Login }> {
  const database = await emptyDatabase(t);
  const { sql } = database;
  const owner = await createLogin(t, database);
  const [{ name }] = await sql<[{ name: string }]>`select current_database() as name`;
  t.teardown(() => sql.unsafe(`alter database ${name} owner to postgres`));
  await sql.unsafe(`alter database ${name} owner to ${owner.role}`);
  const { code, output } = await runProgram("src/migrate.ts", { DATABASE_URL: owner.url });
  t.equal(code, 0, output);
  t.notMatch(output, "WARNING", "the roles are there");
  await owner.sql`
    update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  return { database, owner };
}

void t.test("a worker that owns nothing does all that a worker does", async (t) => {
  const { database, owner } = await installation(t);
  const { sql } = owner;
  const receiver = await startReceiver(t);
  receiver.reply = (_request, n) => (n === 1 ? 500 : 200);
  const { secret } = await createWebhook(sql, { url: receiver.url(), retrySchedule: "{1 s}" });

  const login = await createLogin(t, database, "webhookpub_worker");
  const worker = await startWorkerProcess(t, login.url);
  await sql`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
  await until(
    async () => (await sql`select from webhookpub.deliveries where status = 'delivered'`).count > 0,
    "the delivery, at the second attempt",
  );
  t.equal(receiver.requests.length, 2);
  for (const { body, headers } of receiver.requests) {
    new Webhook(secret).verify(body, headers as Record<string, string>);
  }

  const partitions = async () =>
    await sql<{ owner: string }[]>`
      select c.relowner::regrole::text as owner
      from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
      where i.inhparent = 'webhookpub.attempts'::regclass`;
  const before = await partitions();
  await sql`select webhookpub.drop_partitions('webhookpub.attempts', 'infinity')`;
  await sql`select graphile_worker.add_job('webhook_maintain')`;
  await until(async () => (await partitions()).length >= before.length, "new partitions");
  t.ok(
    (await partitions()).every((one) => one.owner === owner.role),
    "the owner's, not its own",
  );

  worker.kill("SIGTERM");
  t.equal(await worker.ended(), "SIGTERM");
  t.notMatch(worker.output(), /error|permission denied/i);
  t.equal((await sql`select from graphile_worker.jobs where locked_at is not null`).count, 0);

  for (const statement of [
    "select from webhookpub.secrets",
    "select from webhookpub.webhooks",
    "select from webhookpub.events",
    "update webhookpub.delivery_history set status = 'cancelled'",
    "delete from webhookpub.attempts",
    "insert into webhookpub.events (id) values ('evt_1')",
    "select webhookpub.rotate_secret(null)",
    "select webhook_publish_tx('email.sent', 'user_1', '{}')",
    "create function graphile_worker.mine () returns void return null",
  ]) {
    await t.rejects(login.sql.unsafe(statement), { code: "42501" }, statement);
  }
});

void t.test("an application publishes from a trigger, and can do nothing else", async (t) => {
  const { database, owner } = await installation(t);
  await createWebhook(owner.sql);
  const application = await createLogin(t, database, "webhookpub_publisher");
  const stranger = await createLogin(t, database);
  await owner.sql.unsafe(`
    create table public.messages (id text primary key, user_id text);
    create function public.tg_messages__publish () returns trigger language plpgsql as $$
      begin
        perform webhook_publish_tx('email.received', new.user_id, '{}', message_id => new.id);
        return null;
      end;
    $$;
    create trigger messages__publish after insert on public.messages
      for each row execute function public.tg_messages__publish();
    grant insert, select on public.messages to ${application.role}, ${stranger.role}`);

  const published = async () =>
    [...(await owner.sql`select message_id from webhookpub.events order by 1`)].map(
      (row) => row["message_id"] as string,
    );
  await application.sql`insert into messages values ('msg_1', 'user_1')`;
  t.strictSame(await published(), ["msg_1"]);
  await t.rejects(application.sql`insert into messages values ('msg_2', null)`, { code: "WH005" });
  await t.rejects(stranger.sql`insert into messages values ('msg_3', 'user_1')`, {
    code: "42501",
    message: /function webhook_publish_tx/,
  });
  t.strictSame([...(await application.sql`select id from messages`)], [{ id: "msg_1" }]);
  t.strictSame(await published(), ["msg_1"], "neither the row nor the event");

  for (const statement of [
    "select from webhookpub.events",
    "select from webhookpub.event_types",
    "select webhookpub.create_webhook('user_1', 'https://a.example/', '{*}')",
    "select webhookpub.fan_out()",
    "select webhookpub.lease_deliveries('{}')",
    "select graphile_worker.add_job('webhook_fan_out')",
  ]) {
    await t.rejects(application.sql.unsafe(statement), { code: "42501" }, statement);
  }
});
