import { Webhook } from "standardwebhooks";
import t from "tap";
import { testDatabase } from "./support/database.ts";
import { startReceiver } from "./support/receiver.ts";
import { until } from "./support/until.ts";
import { startWorkerProcess } from "./support/worker_process.ts";

void t.test("from a trigger to a recorded attempt, through the real CLI", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  receiver.reply = (_request, n) => (n === 1 ? 500 : 200);
  await startWorkerProcess(t, url);

  const [webhook] = await sql<[{ webhook_id: string; signing_secret: string }]>`
    select * from webhookpub.create_webhook(
      'user_1', ${receiver.url("/hook")}, '{email.*}', p_retry_schedule => '{1 s}')`;
  await sql`create table messages (id text primary key, user_id text, subject text)`;
  await sql.unsafe(`
    create function tg_messages__publish() returns trigger language plpgsql as $$
    begin
      perform webhook_publish_tx(
        'email.received', new.user_id, jsonb_build_object('subject', new.subject),
        message_id => new.id
      );
      return new;
    end $$;
    create trigger publish after insert on messages
      for each row execute function tg_messages__publish()`);
  await sql`insert into messages values ('msg_1', 'user_1', 'Grüße')`;

  const [{ id }] = await sql<[{ id: string }]>`
    select webhookpub.event_id('msg_1', 'email.received') as id`;
  await until(
    async () => (await sql`select from webhookpub.deliveries where status = 'delivered'`).count > 0,
    "the delivery",
  );
  t.equal(receiver.requests.length, 2, "one failed attempt, one retry");
  const verifier = new Webhook(webhook.signing_secret);
  for (const request of receiver.requests) {
    const event = verifier.verify(request.body, request.headers as Record<string, string>);
    t.match(event, { id, event: "email.received", data: { subject: "Grüße" } });
  }
  const attempts = await sql`
    select attempt, outcome, status_code, error from webhookpub.attempts order by attempt`;
  t.strictSame(
    [...attempts],
    [
      { attempt: 1, outcome: "responded", status_code: 500, error: "HTTP 500" },
      { attempt: 2, outcome: "responded", status_code: 200, error: null },
    ],
  );
});
