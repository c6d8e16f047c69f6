// A receiver that takes ten requests a second and says so (429, Retry-After) loses nothing.
import t from "tap";
import { testDatabase } from "../support/database.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { untilNone } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const EVENTS = 500;
const A_SECOND = 10;

void t.test("of 500 events all arrive, by the default schedule", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const taken = new Map<number, number>();
  const accepted = new Set<unknown>();
  receiver.reply = ({ headers }) => {
    const second = Math.floor(performance.now() / 1000);
    const n = (taken.get(second) ?? 0) + 1;
    taken.set(second, n);
    if (n > A_SECOND) return { status: 429, headers: { "retry-after": "1" } };
    accepted.add(headers["webhook-id"]);
    return 200;
  };
  await createWebhook(sql, { url: receiver.url() });
  await publish(sql, { count: EVENTS });
  await fanOutAll(sql);
  await startWorkerProcess(t, url);
  await untilNone(
    async () => {
      // The pauses of the schedule, of a minute and more, pass when there is nothing else to do.
      await sql`
        update webhookpub.queue set due_at = clock_timestamp()
        where not exists (
          select from webhookpub.queue as q where q.leased or q.due_at <= clock_timestamp()
        )`;
      return (await sql`select from webhookpub.queue`).count;
    },
    "all to arrive",
    async () => JSON.stringify(await sql`select * from webhookpub.webhook_health`),
  );
  const ended = await sql`
    select status, count(*)::integer as count from webhookpub.deliveries group by status`;
  t.strictSame([...ended], [{ status: "delivered", count: EVENTS }]);
  t.equal(accepted.size, EVENTS);
  const [{ most }] = await sql<[{ most: number }]>`
    select max(attempts) as most from webhookpub.deliveries`;
  const refused = receiver.requests.length - EVENTS;
  t.comment(`${refused} requests were refused, ${most} attempts at most, ${taken.size} s`);
  t.ok(refused < EVENTS / 2, `it is left alone: ${refused} were refused`);
});
