-- Numbers for monitoring, one a row.
--
-- Called by  psql, exporters.
--
-- Counts of what waits stop at 10,000, as those of webhookpub.backlog do.

create or replace view webhookpub.metrics
  with (security_invoker = true)
as
  select m.name, m.labels, m.value
  from webhookpub.backlog as b
  cross join (
    select
      count(*) filter (where w.enabled) as enabled,
      count(*) filter (where not w.enabled) as disabled,
      count(*) filter (where w.enabled and w.failing_since is not null) as failing,
      count(*) filter (where w.enabled and w.circuit_opened_at is not null) as open
    from webhookpub.webhooks as w
    where w.deleted_at is null
  ) as w
  cross join (
    select count(*) as count
    from (select from webhookpub.publish_failures as f limit 10000) as f
  ) as f
  cross join webhookpub.attempts_recorded as a
  cross join (
    select extract(epoch from min(t.ends_at) at time zone 'UTC' - statement_timestamp()) as ahead
    from (
      select max(to_date(right(c.relname, 8), 'YYYYMMDD')) + interval '1 day' as ends_at
      from pg_inherits as i
      -- One look for each: a catalog grows with its host.
      cross join lateral (select c.relname from pg_class as c where c.oid = i.inhrelid offset 0) as c
      where i.inhparent in ('webhookpub.envelopes'::regclass, 'webhookpub.attempts'::regclass)
        and c.relname ~ '_[0-9]{8}$'
      group by i.inhparent
    ) as t
  ) as p
  cross join lateral (
    values
      ('publisher_lag_seconds', '{}'::jsonb, coalesce(extract(epoch from b.oldest_event), 0)),
      ('events_pending', '{}', b.events_pending),
      ('events_failing', '{}', b.events_failing),
      ('delivery_lag_seconds', '{}', coalesce(extract(epoch from b.oldest_due), 0)),
      ('deliveries_pending', '{}', b.deliveries_pending),
      ('deliveries_due', '{}', b.deliveries_due),
      ('deliveries_in_flight', '{}', b.deliveries_in_flight),
      ('attempts_total', '{}', case when a.is_called then a.last_value else 0 end),
      ('publish_failures', '{}', f.count),
      ('webhooks_enabled', '{}', w.enabled),
      ('webhooks_disabled', '{}', w.disabled),
      ('webhooks_failing', '{}', w.failing),
      ('webhooks_circuit_open', '{}', w.open),
      ('partitions_ahead_seconds', '{}', p.ahead)
  ) as m (name, labels, value);

comment on view webhookpub.metrics is
  'Numbers for monitoring, one a row. docs/monitoring.md says what each means; counts of what waits stop at 10,000.';
comment on column webhookpub.metrics.name is
  'Its name, as for Prometheus: _seconds is a duration, _total only grows, any other goes up and down.';
comment on column webhookpub.metrics.labels is
  'What tells rows of one name apart; empty where there is one.';
comment on column webhookpub.metrics.value is 'The number, as of now.';
