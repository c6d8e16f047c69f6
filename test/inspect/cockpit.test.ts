// examples/psqlrc, in the real psql.
import t from "tap";
import { emptyDatabase, testDatabase } from "../support/database.ts";
import { findPsql, runPsql } from "../support/psql.ts";
import { createWebhook, publish } from "../support/scene.ts";

const psql = findPsql() ?? "psql";
const missing = findPsql() === undefined && "psql is not installed here";
// There it must not go unnoticed.
const skip = process.env["CI"] === undefined && missing;

const PSQLRC = { PSQLRC: "examples/psqlrc" };

/** The short names and the first columns of what each shows. */
const NAMES: Record<string, RegExp> = {
  backlog: /^ *stage +waiting +due +in_flight +failing +longest_wait/m,
  health: /^ *user_id +url +state +ok % +p95_ms +pending/m,
  failing: /^ *webhook_id +user_id +url +state +since/m,
  errors: /^ *last_error +deliveries +webhooks/m,
  last: /^ *at +event_type +user_id +url +state +tries/m,
  events: /^ *at +event_id +event_type +user_id +status +deliveries/m,
  metrics: /^ *publisher_lag_seconds +0/m,
  workers: /^ *client_addr +connections/m,
  jobs: /^ *webhook_deliver +1/m,
  unpublished: /order\.shipped/,
  trace:
    /^ *email\.received +user_1[^]*responded[^]*every clause holds[^]*labels: the event has none/m,
  envelope: /^ *\{"event": "email.received", "id": "evt_1"/m,
  redeliver: /created/,
  of_webhook:
    // The replay first: it is the newest.
    /^ *\d\d \w{3} [\d:]+ +evt_1 +waits: worker +0 +-[^]*waits: next attempt +1 +HTTP 500/m,
  of_user: /email\.received/,
};

void t.test("every short name of examples/psqlrc runs, and is narrow", { skip }, async (t) => {
  const { sql, url } = await testDatabase(t);
  const webhook = await createWebhook(sql, {
    url: `https://receiver.example/${"x".repeat(200)}`,
    maxInFlight: 100,
    // Longer than any machine needs until it is looked at.
    retrySchedule: "{1 h}",
  });
  await createWebhook(sql, { filters: '{"labels": ["vip"]}' });
  await sql`select webhook_publish_tx('email.received', 'user_1', '{}', event_id => 'evt_1')`;
  await publish(sql, { count: 30 });
  await sql`select webhook_publish_best_effort_tx('order.shipped', 'user_1', '{}')`;
  await sql`select webhookpub.fan_out()`;
  await sql`
    select webhookpub.record_attempts(
      array[l.delivery_id], array[l.attempt], array[l.started_at], array[7],
      array['responded'], array[500], array[null], array['oops'], array[null]
    )
    from webhookpub.lease_deliveries(${[webhook.id]}) as l`;
  const set = `\\set event evt_1\n\\set webhook ${webhook.id}\n\\set user user_1\n`;

  const help = await runPsql(psql, url, ":help\n", PSQLRC);
  t.equal(help.code, 0, help.output);
  t.match(help.output, /^webhookpub: type :help\n/);
  const offered = [...help.output.matchAll(/^:(\w+) /gm)].map(([, name = ""]) => name);
  t.strictSame(offered.toSorted(), Object.keys(NAMES).toSorted(), "what :help offers");

  for (const [name, pattern] of Object.entries(NAMES)) {
    const { code, output } = await runPsql(psql, url, `${set}:${name}\n`, PSQLRC);
    t.equal(code, 0, `:${name}: ${output}`);
    t.match(output, pattern, `:${name}`);
    if (name === "envelope") continue;
    const widest = Math.max(...output.split("\n").map((line) => line.length));
    t.ok(widest <= 120, `:${name} is ${widest} columns wide`);
  }

  const times = (output: string) => output.match(/^fan out /gm)?.length ?? 0;
  const typed = ":backlog \\watch 0.01\n";
  const watched = await runPsql(psql, url, typed, PSQLRC, (output) => times(output) > 3);
  t.ok(times(watched.output) > 3, "with \\watch again and again");
});

void t.test(
  "a question about no event is refused, not answered with nothing",
  { skip },
  async (t) => {
    const { url } = await testDatabase(t);
    const trace = await runPsql(psql, url, ":trace\n", PSQLRC);
    t.not(trace.code, 0);
    t.match(trace.output, /no such event: 'not set'/);
  },
);

void t.test("in a database without webhookpub the cockpit says so", { skip }, async (t) => {
  const { url } = await emptyDatabase(t);
  const { code, output } = await runPsql(psql, url, "select 1 as one;\n", PSQLRC);
  t.equal(code, 0, output);
  t.match(output, /^webhookpub is not installed in this database/);
  t.match(output, /one/, "and psql is of use all the same");
});
