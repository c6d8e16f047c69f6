import type { Sql } from "../../src/database/connect.ts";

export const DATA = JSON.stringify({
  from: "somebody@example.com",
  to: "another@example.com",
  subject: "A subject of ordinary length",
  text: "A body of some words, to give it a size that is usual for a notification.",
});

/** Publishes one event, as a script of pgbench. */
export const PUBLISH = `select webhook_publish_tx('email.received', 'user_1', '${DATA}');`;

/** Makes `users` with as many `webhooks` each, which listen to `events`. */
export async function subscribe(
  sql: Sql,
  { users = 100, webhooks = 3, events = "{email.*}", prefix = "user_" } = {},
): Promise<void> {
  await sql`
    select webhookpub.create_webhook(${prefix} || u, 'https://example.com/', ${events}::text[])
    from generate_series(1, ${users}::int) as u, generate_series(1, ${webhooks}::int)`;
}

/** Publishes events, to each user in turn. */
export async function publishEvents(sql: Sql, count: number, users = 100): Promise<void> {
  await sql`
    select webhook_publish_tx('email.received', 'user_' || (1 + n % ${users}), '{"n": 1}')
    from generate_series(1, ${count}::int) as n`;
}

/** Removes what events leave behind, and the jobs. */
export async function clear(sql: Sql): Promise<void> {
  await sql`
    truncate webhookpub.events, webhookpub.envelopes, webhookpub.delivery_history, webhookpub.queue,
      webhookpub.attempts`;
  await sql`
    select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;
}

/** Fans out whatever is pending; returns events per second. */
export async function drainFanOut(sql: Sql): Promise<number> {
  const begun = performance.now();
  let events = 0;
  for (;;) {
    const [done] = await sql<[{ event_count: number }]>`select * from webhookpub.fan_out()`;
    if (done.event_count === 0) return (events * 1000) / (performance.now() - begun);
    events += done.event_count;
  }
}

/**
 * Leases whatever is due and records a 200 for it, as a worker would that POSTs in no time;
 * returns deliveries per second.
 */
export async function drainLeases(sql: Sql): Promise<number> {
  const [{ ids }] = await sql<[{ ids: string[] }]>`
    select array_agg(w.id) as ids
    from webhookpub.webhooks as w
    where exists (
      select
      from webhookpub.queue as q
      where q.webhook_id = w.id and q.due_at <= now()
    )`;
  const begun = performance.now();
  let deliveries = 0;
  for (let last = -1; last !== deliveries;) {
    last = deliveries;
    for (let i = 0; i < ids.length; i += 50) {
      deliveries += await leaseAndRecord(sql, ids.slice(i, i + 50));
    }
  }
  return (deliveries * 1000) / (performance.now() - begun);
}

async function leaseAndRecord(sql: Sql, webhookIds: string[]): Promise<number> {
  const [row] = await sql<[{ count: number }]>`
    with leased as materialized (
      select l.delivery_id, l.attempt, l.started_at
      from webhookpub.lease_deliveries(
        p_webhook_ids => ${webhookIds}::text[],
        p_limits => array_fill(20, array[cardinality(${webhookIds}::text[])])
      ) as l
    ),
    requested as materialized (
      select count(r.signature)
      from webhookpub.lease_requests(array(select l.delivery_id from leased as l)) as r
    )
    select count(*)::int as count, webhookpub.record_attempts(
      p_delivery_ids => array_agg(l.delivery_id),
      p_attempts => array_agg(l.attempt),
      p_started_at => array_agg(l.started_at),
      p_durations_ms => array_agg(1),
      p_outcomes => array_agg('responded'::text),
      p_status_codes => array_agg(200),
      p_errors => array_agg(null::text),
      p_response_bodies => array_agg('ok'::text),
      p_retry_afters => array_agg(null::text)
    )
    from leased as l, requested`;
  return row.count;
}

/** Milliseconds of some work. */
export async function timeOf(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await work();
  return performance.now() - begun;
}
