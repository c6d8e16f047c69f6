// Order under fire: what one ordering key has is received in order, whatever becomes of workers.
import t from "tap";
import { testDatabase } from "../support/database.ts";
import { randomFrom } from "../support/random.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook } from "../support/scene.ts";
import { until, untilNone } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { count } from "./backends.ts";

const KEYS = 200;
const EVENTS = 50;

void t.test("200 keys of 50 events, while one worker is killed and one stopped", async (t) => {
  const { sql, url } = await testDatabase(t);
  const receiver = await startReceiver(t);
  await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  const { random, accepted } = { random: randomFrom(), accepted: new Map<string, number[]>() };
  t.comment(`SEED=${random.seed}`);
  const held: string[] = [];
  let hold: Promise<void> | undefined;
  receiver.reply = async ({ body, headers }) => {
    const chance = random.below(1000);
    if (chance < 100) return 500;
    if (chance < 105) return "hang";
    if (chance < 110) return "reset";
    const { key, n } = (JSON.parse(body) as { data: { key: string; n: number } }).data;
    const got = accepted.get(key) ?? [];
    // A receiver knows an event that it has had.
    if (!got.includes(n)) got.push(n);
    accepted.set(key, got);
    if (hold) {
      held.push(String(headers["webhook-delivery-id"]));
      await hold;
    }
    return 200;
  };
  await createWebhook(sql, {
    url: receiver.url(),
    ordered: true,
    maxInFlight: KEYS,
    // Long enough for a machine that is far too busy: else the circuit opens.
    requestTimeout: "4 s",
    retrySchedule: `{${Array(30).fill("20 ms").join(",")}}`,
  });
  const [killed, stopped] = await Promise.all([
    startWorkerProcess(t, url),
    startWorkerProcess(t, url),
  ]);
  const publishing = (async () => {
    for (let n = 0; n < EVENTS; n += 1) {
      await sql`
        select webhook_publish_tx(
          'email.received', 'user_1', jsonb_build_object('key', k::text, 'n', ${n}::integer),
          ordering_key => k::text
        )
        from generate_series(1, ${KEYS}) as k`;
    }
  })();
  await until(() => receiver.requests.length > 1000, "requests of two workers");
  killed.kill("SIGKILL");
  await until(() => receiver.requests.length > 2500, "requests of one worker");
  // It is the only one, and waits for an answer: it has leases for certain when it is stopped.
  const answers = Promise.withResolvers<void>();
  hold = answers.promise;
  await until(() => held.length > 0, "a request that waits for its answer");
  stopped.kill("SIGSTOP");
  hold = undefined;
  answers.resolve();
  await Promise.all([startWorkerProcess(t, url), startWorkerProcess(t, url)]);
  // What the stopped one had leased is taken over first, so that it is sent twice.
  await until(
    async () =>
      (await count(sql`
        select from webhookpub.deliveries where lost > 0 and id = any (${held})`)) > 0,
    "leases to be taken over",
  );
  stopped.kill("SIGCONT");
  await publishing;
  await untilNone(
    async () =>
      (await count(sql`select from webhookpub.queue`)) +
      (await count(sql`select from webhookpub.events where status = 'pending'`)),
    "all to be delivered",
    async () =>
      JSON.stringify(
        await sql`
      select q.leased, q.turn_at is null as turn, count(*), min(q.due_at)
      from webhookpub.queue as q group by 1, 2`,
      ),
  );

  t.equal(accepted.size, KEYS);
  const inOrder = JSON.stringify([...Array(EVENTS).keys()]);
  const wrong = [...accepted].filter(([, got]) => JSON.stringify(got) !== inOrder);
  t.strictSame(wrong, [], "each key in order, and nothing lost");
  const states = await sql`
    select status, count(*)::integer as count from webhookpub.deliveries group by status`;
  t.strictSame([...states], [{ status: "delivered", count: KEYS * EVENTS }]);
  t.comment(`${receiver.requests.length} requests for ${KEYS * EVENTS} deliveries`);
});
