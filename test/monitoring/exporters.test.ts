// The exporters of examples/monitoring, before a real database, and Prometheus behind them.
import t from "tap";
import { z } from "zod";
import { type TestDatabase, testDatabase } from "../support/database.ts";
import { EXPORTERS } from "../support/exporters.ts";
import { skipWithout } from "../support/installed.ts";
import { createLogin } from "../support/login.ts";
import { startPrometheus } from "../support/prometheus.ts";
import { createWebhook, fanOutAll, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";

/** Something for each of the metrics. */
async function makeScene({ sql }: TestDatabase): Promise<void> {
  // Its lease does not end while the exporters start: none is longer.
  const failing = await createWebhook(sql, { requestTimeout: "30 s" });
  const silent = await createWebhook(sql);
  const disabled = await createWebhook(sql);
  await createWebhook(sql);
  await publish(sql, { count: 3 });
  await fanOutAll(sql);
  await sql`
    select webhookpub.record_attempts(
      array[l.delivery_id], array[l.attempt], array[l.started_at], array[7],
      array['responded'], array[500], array[null], array['oops'], array[null]
    )
    from webhookpub.lease_deliveries(${[failing.id]}, array[2]) as l`;
  await sql`select from webhookpub.lease_deliveries(${[failing.id]}, array[1])`;
  await sql`
    update webhookpub.webhooks
    set unanswered = 5, circuit_opened_at = now(), circuit_retry_at = now() + interval '1 hour'
    where id = ${silent.id}`;
  await sql`select webhookpub.disable_webhook(${disabled.id})`;
  await publish(sql, { count: 2 });
  await sql`
    update webhookpub.events
    set created_at = created_at - interval '1 minute',
      (last_error, retry_at) = (
        select 'no', now()
        where events.id = (select min(e.id) from webhookpub.events as e where e.status = 'pending')
      )
    where status = 'pending'`;
  await sql`select webhook_publish_best_effort_tx('order.shipped', 'user_1', '{}')`;
  await sql`
    update webhookpub.queue set due_at = due_at - interval '1 minute'
    where attempt = 0`;
}

const Rules = z.object({
  data: z.object({
    groups: z.array(
      z.object({
        rules: z.array(z.object({ name: z.string(), state: z.string(), health: z.string() })),
      }),
    ),
  }),
});

for (const [name, start] of Object.entries(EXPORTERS)) {
  const skip = skipWithout(name, "prometheus");
  void t.test(`${name}: every metric comes to Prometheus, by its name`, { skip }, async (t) => {
    const database = await testDatabase(t);
    await makeScene(database);
    const rows = await database.sql<{ name: string; value: number }[]>`
      select 'webhookpub_' || name as name, value::float8 from webhookpub.metrics`;
    t.strictSame(
      rows.filter(({ value }) => value === 0),
      [],
      "each has something to say",
    );

    const reader = await createLogin(t, database, "webhookpub_readonly");
    const prometheus = await startPrometheus(t, { webhookpub: [await start(t, reader.url)] });
    const scraped = () => prometheus.query('{__name__=~"webhookpub_.+"}');
    await until(async () => (await scraped()).length > 0, "the first scrape");
    const got = new Map(
      (await scraped()).map(({ labels, value }) => [labels["__name__"] ?? "", value] as const),
    );
    t.strictSame([...got.keys()].toSorted(), rows.map((row) => row.name).toSorted());
    for (const row of rows) {
      const value = got.get(row.name) ?? -1;
      // Time goes on.
      if (row.name.endsWith("_seconds")) t.ok(Math.abs(value - row.value) < 600, row.name);
      else t.equal(value, row.value, row.name);
    }

    const rules = async () =>
      Rules.parse(await prometheus.api("rules")).data.groups.flatMap((group) => group.rules);
    const lag = async () => (await rules()).find((rule) => rule.name === "WebhookpubEventsWait");
    await until(async () => ((await lag())?.state ?? "inactive") !== "inactive", "the alert");
    t.strictSame(
      (await rules()).filter(({ health }) => health !== "ok"),
      [],
      "every rule runs",
    );
  });
}
