-- What a monitoring system wants to have, in its form: name, labels, value.
--
-- Called by  exporters, psql.

create or replace view webhookpub.metrics
  with (security_invoker = true)
as
  with backlog as materialized (
    select b.* from webhookpub.backlog as b
  ),
  webhook as (
    select
      case
        when w.deleted_at is not null then 'deleted'
        when not w.enabled then 'disabled'
        when w.failing_since is not null then 'failing'
        else 'ok'
      end as state
    from webhookpub.webhooks as w
  )
  select
    'publisher_lag_seconds' as name,
    '{}'::jsonb as labels,
    coalesce(extract(epoch from now() - min(e.created_at)), 0)::double precision as value
  from webhookpub.events as e
  where e.status = 'pending' and (e.retry_at is null or e.retry_at <= now())
  union all
  select v.name, v.labels, v.value
  from backlog as b
  cross join lateral (
    values
      (b.what || '_pending', '{}'::jsonb, b.pending::double precision),
      (b.what || '_due', '{}', b.due),
      (b.what || '_in_flight', '{}', b.in_flight),
      (b.what || '_waiting', '{}', b.waiting),
      (b.what || '_on_hold', '{}', b.on_hold),
      (b.what || '_oldest_seconds', '{}', coalesce(extract(epoch from b.oldest_age), 0))
  ) as v (name, labels, value)
  -- An event is never in flight nor on hold.
  where b.what = 'deliveries' or v.name not in ('events_in_flight', 'events_on_hold')
  union all
  select 'webhooks', jsonb_build_object('state', s.state), count(w.state)
  from (values ('ok'), ('failing'), ('disabled'), ('deleted')) as s (state)
  left join webhook as w on w.state = s.state
  group by s.state
  union all
  select 'publish_failures', '{}', count(*)
  from webhookpub.publish_failures
  union all
  select t.name || '_total', '{}', sum(pg_stat_get_tuples_inserted(r.oid))
  from (values ('events'), ('deliveries'), ('attempts')) as t (name)
  cross join lateral (
    select ('webhookpub.' || t.name)::regclass::oid
    union all
    select i.inhrelid
    from pg_inherits as i
    where i.inhparent = ('webhookpub.' || t.name)::regclass
  ) as r (oid)
  group by t.name;

comment on view webhookpub.metrics is
  'Gauges and counters, a row each. Those that end in _total are PostgreSQL''s count of rows written, so that nothing is scanned: they may start anew after a crash, and attempts_total falls when an old partition goes.';
comment on column webhookpub.metrics.name is
  'publisher_lag_seconds is the age of the oldest event that fan-out could take now; the others say what they count.';
comment on column webhookpub.metrics.labels is 'Tells rows of one name apart: the state of webhooks.';
comment on column webhookpub.metrics.value is 'A count, or seconds.';
