-- How each webhook does: what became of its last attempts, and what waits for it.
--
-- Called by  psql: one webhook, one user, or those that fail.
--
-- Bounded for each webhook, so that a long history costs nothing.

create or replace view webhookpub.webhook_health
  with (security_invoker = true)
as
  select
    w.id as webhook_id, w.user_id, w.url, w.enabled, w.disabled_reason, w.disabled_at,
    w.failing_since, w.circuit_opened_at, w.circuit_retry_at,
    case when w.paused_until > statement_timestamp() then w.paused_until end as paused_until,
    case when p.pending > 0 then webhookpub.webhook_waits(w.id) end as waits_for,
    w.max_per_second, w.ordered, w.last_delivered_at,
    r.attempts as recent_attempts, r.success_rate, r.p95_duration_ms, r.last_error,
    p.pending, p.oldest_pending, p.in_flight, w.max_in_flight
  from webhookpub.webhooks as w
  left join lateral (
    select
      count(*) as attempts,
      round(avg(coalesce(a.status_code between 200 and 299, false)::integer), 3) as success_rate,
      percentile_disc(0.95) within group (order by a.duration_ms) as p95_duration_ms,
      (array_agg(a.error order by a.started_at desc) filter (where a.error is not null))[1] as last_error
    from (
      select a.started_at, a.status_code, a.duration_ms, a.error
      from webhookpub.attempts as a
      where a.webhook_id = w.id
        and a.started_at > statement_timestamp() - interval '1 day'
        and a.started_at <= statement_timestamp()
      order by a.started_at desc
      limit 100
    ) as a
  ) as r on true
  left join lateral (
    select
      count(*) as pending,
      statement_timestamp() - (
        select h.created_at
        from webhookpub.delivery_history as h
        -- Ids are in the order of time.
        where h.id = min(q.delivery_id)
      ) as oldest_pending,
      count(*) filter (where q.leased and q.due_at > statement_timestamp()) as in_flight
    from (
      select q.delivery_id, q.leased, q.due_at
      from webhookpub.queue as q
      where q.webhook_id = w.id
      order by q.leased, q.due_at
      limit 10000
    ) as q
  ) as p on true
  where w.deleted_at is null;

comment on view webhookpub.webhook_health is
  'How each webhook does, deleted ones left out. Rates are over its last 100 attempts, of the last 24 hours.';
comment on column webhookpub.webhook_health.url is 'Where deliveries are POSTed.';
comment on column webhookpub.webhook_health.disabled_reason is
  'manual, failing, gone or what the operator gave.';
comment on column webhookpub.webhook_health.failing_since is
  'First failed attempt since the last success; null while all is well.';
comment on column webhookpub.webhook_health.circuit_opened_at is
  'Since when its receiver is left alone because it does not answer; null while it does.';
comment on column webhookpub.webhook_health.circuit_retry_at is
  'When the next delivery goes out as a probe; an answer to it closes the circuit.';
comment on column webhookpub.webhook_health.paused_until is
  'Until when its receiver asked to be left alone (Retry-After); null when it did not.';
comment on column webhookpub.webhook_health.waits_for is
  'What all that is pending waits for: an enabled webhook, a secret, a closed circuit, the end of a pause, its pace, room, or delivery to be on; null: nothing, or nothing is pending.';
comment on column webhookpub.webhook_health.max_per_second is
  'Its pace: how many requests a second it gets at most; null: it has none.';
comment on column webhookpub.webhook_health.ordered is
  'Whether its deliveries with the same ordering key go one after another.';
comment on column webhookpub.webhook_health.last_delivered_at is
  'Last success, to about 10 s.';
comment on column webhookpub.webhook_health.recent_attempts is
  'How many attempts the next columns are about: the last 100, of the last 24 hours.';
comment on column webhookpub.webhook_health.success_rate is
  'Share of them that got a 2xx, from 0 to 1; null without any.';
comment on column webhookpub.webhook_health.p95_duration_ms is
  '95 of 100 took no longer than this, in milliseconds; null without any.';
comment on column webhookpub.webhook_health.last_error is
  'Why the last of them that failed did so.';
comment on column webhookpub.webhook_health.pending is
  'Deliveries that have not ended; 10,000 means that many or more.';
comment on column webhookpub.webhook_health.oldest_pending is
  'How long the oldest of them has been there; of the first 10,000 that are due.';
comment on column webhookpub.webhook_health.in_flight is
  'Requests that are under way now, on all workers.';
comment on column webhookpub.webhook_health.max_in_flight is
  'How many of them may be; when in_flight is there, the receiver is slow.';
