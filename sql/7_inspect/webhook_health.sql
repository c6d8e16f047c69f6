-- How webhooks are doing.
--
-- Called by  psql: select * from webhookpub.webhook_health where webhook_id = '…'.
--
-- The sample is bounded, so that it costs the same whatever a webhook has behind it: about
-- 1 ms a webhook.

create or replace view webhookpub.webhook_health
  with (security_invoker = true)
as
  select
    w.id as webhook_id,
    w.user_id,
    w.url,
    case
      when w.deleted_at is not null then 'deleted'
      when not w.enabled then 'disabled'
      when w.failing_since is not null then 'failing'
      else 'ok'
    end as state,
    w.disabled_reason,
    w.failing_since,
    w.failures,
    r.attempts,
    r.success_rate,
    r.p95_ms,
    p.pending,
    p.oldest_pending_at,
    w.last_delivered_at,
    r.last_error
  from webhookpub.webhooks as w
  cross join lateral (
    select
      count(*) as attempts,
      round(avg((a.error is null)::integer), 3) as success_rate,
      percentile_disc(0.95) within group (order by a.duration_ms) as p95_ms,
      (array_agg(a.error order by a.started_at desc) filter (where a.error is not null))[1]
        as last_error
    from (
      select d.id, d.created_at
      from webhookpub.deliveries as d
      where d.webhook_id = w.id
        and d.created_at >= now() - interval '24 hours'
        and d.attempts > 0
      order by d.created_at desc
      limit 100
    ) as d
    join webhookpub.attempts as a
      on a.delivery_id = d.id
      and a.started_at >= d.created_at
      and a.started_at >= now() - interval '24 hours'
      and a.started_at <= now()
  ) as r
  cross join lateral (
    select count(*) as pending, min(d.created_at) as oldest_pending_at
    from webhookpub.deliveries as d
    where d.webhook_id = w.id and d.status = 'pending'
  ) as p;

comment on view webhookpub.webhook_health is
  'How each webhook is doing. Rates are over the attempts of its newest 100 deliveries of the last 24 hours.';
comment on column webhookpub.webhook_health.state is
  'ok, failing (no success since failing_since), disabled or deleted.';
comment on column webhookpub.webhook_health.failing_since is
  'First failed attempt since the last success; null while all is well.';
comment on column webhookpub.webhook_health.failures is
  'Failed attempts since the last success, counted up to settings.auto_disable_min_failures.';
comment on column webhookpub.webhook_health.attempts is 'How many attempts the sample has.';
comment on column webhookpub.webhook_health.success_rate is
  'The share of these attempts that succeeded, 0 to 1; null without any.';
comment on column webhookpub.webhook_health.p95_ms is
  'What 95 % of these attempts did not exceed, in milliseconds for the whole exchange.';
comment on column webhookpub.webhook_health.oldest_pending_at is
  'When its oldest pending delivery was made.';
comment on column webhookpub.webhook_health.last_error is
  'What went wrong in the last of these attempts that failed.';
