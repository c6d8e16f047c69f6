import type { AnySql } from "./named.ts";

/** How much has happened in a database, for questions that must be answered fast all the same. */
export interface History {
  readonly events: number;
  /** Of `users` users with three webhooks each: every event has three deliveries. */
  readonly users: number;
  /** Days that it is spread over, up to now. */
  readonly days: number;
}

/**
 * Writes a history as the pipeline would have left it: of a hundred deliveries, 92 delivered
 * at once, 3 at the second attempt, 2 failed, and 3 of the newest pending. Set-based, because
 * it is about how much there is, not how it came to be.
 */
export async function writeHistory(sql: AnySql, { events, users, days }: History): Promise<void> {
  for (let day = days; day >= 0; day -= 14) {
    for (const table of ["envelopes", "attempts"]) {
      await sql`
        select webhookpub.create_partitions(
          ${`webhookpub.${table}`}::regclass, 14, now() - ${day} * interval '1 day'
        )`;
    }
  }
  await sql`update webhookpub.settings set max_webhooks_per_user = 1000000`;
  await sql`
    select webhookpub.create_webhook('user_' || u, 'https://hooks.example.com/' || u || '/' || w, '{email.*}')
    from generate_series(1, ${users}::int) as u, generate_series(1, 3) as w`;
  await sql`
    create temp table history on commit preserve rows as
    select
      n,
      webhookpub.event_id('history', n::text) as event_id,
      'user_' || (1 + n % ${users}::int) as user_id,
      clock_timestamp() - ${days} * interval '1 day' * (1 - n / ${events}::float8) as at
    from generate_series(1, ${events}::int) as n`;
  await sql`
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select h.event_id, h.at, h.user_id, '{"data": {"text": "' || repeat('x', 300) || '"}}'
    from history as h`;
  await sql`
    insert into webhookpub.events
      (id, user_id, type, status, matched_webhook_ids, attempts, processed_at, created_at, expires_at)
    select
      h.event_id, h.user_id, 'email.received',
      (case when n % 20 = 0 then 'no_match' else 'processed' end)::webhookpub.event_status,
      '{}', 1, h.at, h.at, h.at + interval '30 days'
    from history as h`;
  // As fan-out and record leave them: rows of many webhooks side by side, in order of time.
  await sql`
    insert into webhookpub.delivery_history
      (id, webhook_id, event_id, event_type, event_created_at, status, attempts, max_attempts,
       last_status_code, last_error, last_attempt_at, delivered_at, created_at)
    select
      webhookpub.delivery_id(h.at), w.id, h.event_id, 'email.received', h.at, s.status,
      s.attempts, 8,
      case s.status when 'delivered' then 200 when 'failed' then 500 end,
      case when s.status = 'failed' then 'HTTP 500' end,
      case when s.attempts > 0 then h.at + interval '1 minute' * (s.attempts - 1) end,
      case when s.status = 'delivered' then h.at + interval '1 minute' * s.attempts end,
      h.at
    from history as h
    join webhookpub.webhooks as w on w.user_id = h.user_id
    cross join lateral (
      select abs(hashtext(h.event_id || w.id)) % 100 as dice
    ) as r
    cross join lateral (
      select
        case
          when h.n > ${events}::int * 0.97 then 'pending'
          when r.dice < 2 then 'failed'
          else 'delivered'
        end as status,
        case
          when h.n > ${events}::int * 0.97 then r.dice % 2
          when r.dice < 2 then 8
          when r.dice < 5 then 2
          else 1
        end as attempts
    ) as s`;
  await sql`
    insert into webhookpub.queue (delivery_id, webhook_id, due_at, attempt, last_attempt_at)
    select
      h.id, h.webhook_id, h.created_at + interval '1 day' * h.attempts, h.attempts,
      h.last_attempt_at
    from webhookpub.delivery_history as h
    where h.status = 'pending'`;
  await sql`
    insert into webhookpub.attempts
      (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error, webhook_id)
    select
      d.id, a.attempt, d.last_attempt_at - interval '1 minute' * (d.attempts - a.attempt),
      10 + ascii(right(d.id, 1)), 'responded',
      case when a.attempt = d.attempts and d.status = 'delivered' then 200 else 500 end,
      case when a.attempt = d.attempts and d.status = 'delivered' then null else 'HTTP 500' end,
      d.webhook_id
    from webhookpub.deliveries as d
    cross join lateral generate_series(1, d.attempts) as a (attempt)`;
  await sql`drop table history`;
}
