--! Previous: sha1:b00988ce014dae1b4e7a2b19a374afec7112ad71
--! Hash: sha1:777e015f0c9611183259fc48657d27a1c77359a4
--! Message: views

-- Views for psql, and the indexes that answer them. None is of events: publishers would pay
-- for it.
--
-- Workers are stopped for an upgrade: no more than a direct publisher waits for an index.
-- squawk-ignore require-concurrent-index-creation
create index envelopes_by_user on webhookpub.envelopes (user_id, created_at);
-- squawk-ignore require-concurrent-index-creation
create index envelopes_by_created_at on webhookpub.envelopes (created_at);
-- squawk-ignore require-concurrent-index-creation
create index attempts_by_webhook on webhookpub.attempts (webhook_id, started_at);

-- A counter that nobody waits for, and that does not go back when partitions are dropped.
create sequence webhookpub.attempts_recorded;
comment on sequence webhookpub.attempts_recorded is
  'How many attempts were ever recorded.';
select setval('webhookpub.attempts_recorded', a.count)
from (select count(*) as count from webhookpub.attempts) as a
where a.count > 0;
-- In two steps, so that no row is rewritten.
alter table webhookpub.attempts add column number bigint;
alter table webhookpub.attempts
  alter column number set default nextval('webhookpub.attempts_recorded');
comment on column webhookpub.attempts.number is
  'Counts all attempts, in the order of their recording; null for those of before the counter.';

--! Included 7_inspect/event_log.sql
-- What was published and what became of it, newest first.
--
-- Called by  psql: one event, one user, or the last ones, with a limit.
--
-- Its order is that of two tables which have an index for it, or are small: the envelopes
-- of what was fanned out, and the events that wait for it. An index of events would be
-- paid for by every publisher.

create or replace view webhookpub.event_log
  with (security_invoker = true)
as
  select
    k.event_id, k.created_at, k.user_id, e.type as event_type, e.status,
    (
      select jsonb_object_agg(s.status, s.count)
      from (
        select d.status, count(*) as count
        from webhookpub.deliveries as d
        where d.event_id = k.event_id
          -- Both halves, because each has an index.
          and (d.replay_id is null or d.replay_id is not null)
        group by d.status
      ) as s
    ) as deliveries,
    e.processed_at, e.attempts, e.last_error, e.retry_at, e.agent_id, e.conversation_id,
    e.labels, e.message_id, e.matched_webhook_ids, e.expires_at
  from (
    select n.event_id, n.created_at, n.user_id, 'pending'::webhookpub.event_status as kept
    from webhookpub.envelopes as n
    union all
    select e.id, e.created_at, e.user_id, e.status
    from webhookpub.events as e
  ) as k
  -- One look into an index for each; "offset 0" keeps the planner from joining.
  cross join lateral (
    select e.* from webhookpub.events as e where e.id = k.event_id offset 0
  ) as e
  where k.kept = 'pending'
  order by k.created_at desc;

comment on view webhookpub.event_log is
  'What was published and what became of it, newest first. Say which event or user, or add a limit.';
comment on column webhookpub.event_log.created_at is 'When it was published; the order of the view.';
comment on column webhookpub.event_log.status is
  'pending until fan-out; then processed (it matched) or no_match.';
comment on column webhookpub.event_log.deliveries is
  'How many of its deliveries, replays included, have which status; null: it has none.';
comment on column webhookpub.event_log.attempts is 'How often its fan-out was tried.';
comment on column webhookpub.event_log.last_error is 'Why its last fan-out failed.';
comment on column webhookpub.event_log.retry_at is
  'When fan-out tries it again after a failure.';
comment on column webhookpub.event_log.matched_webhook_ids is
  'The webhooks that it matched; explain_event says why not the others.';
comment on column webhookpub.event_log.expires_at is
  'When maintenance may remove it, unless it is pending.';
--! EndIncluded 7_inspect/event_log.sql
--! Included 7_inspect/delivery_log.sql
-- Every delivery and how it stands, newest first.
--
-- Called by  psql: of one event, one webhook or one user, or the last ones, with a limit.
--
-- Ids of deliveries are in the order of their creation.

create or replace view webhookpub.delivery_log
  with (security_invoker = true)
as
  select
    d.id as delivery_id, d.created_at, d.event_id, d.event_type, d.webhook_id, w.user_id,
    w.url, d.status,
    case
      when d.status <> 'pending' then null
      when d.leased and d.next_attempt_at > statement_timestamp() then 'answer'
      when not w.enabled then 'enabled webhook'
      when d.next_attempt_at > statement_timestamp() then 'next attempt'
      when w.circuit_retry_at > statement_timestamp() then 'closed circuit'
      else 'worker'
    end as waits_for,
    d.attempts, d.max_attempts, d.next_attempt_at, d.last_status_code, d.last_error,
    d.last_attempt_at, d.delivered_at, d.replay_id, d.message_id, d.expires_at
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  -- Both halves, because each has an index by event.
  where d.replay_id is null or d.replay_id is not null
  order by d.id desc;

comment on view webhookpub.delivery_log is
  'Every delivery and how it stands, newest first. Say which event, webhook or user, or add a limit; sorting it anew reads all of it.';
comment on column webhookpub.delivery_log.url is 'Where it goes, as the webhook has it now.';
comment on column webhookpub.delivery_log.status is
  'pending; then delivered, failed (no attempt left, or gone) or cancelled (webhook deleted).';
comment on column webhookpub.delivery_log.waits_for is
  'What a pending one waits for: an answer to its request, an enabled webhook, its next attempt (next_attempt_at), a closed circuit, or a worker.';
comment on column webhookpub.delivery_log.attempts is 'Attempts begun; the table attempts has each of them.';
comment on column webhookpub.delivery_log.next_attempt_at is
  'When it is due, or, while it waits for an answer, when that counts as lost.';
comment on column webhookpub.delivery_log.replay_id is
  'Null for the first delivery of an event; rpl_… or test_… for a replay or a test.';
comment on column webhookpub.delivery_log.expires_at is
  'When maintenance may remove it, unless it is pending.';
--! EndIncluded 7_inspect/delivery_log.sql
--! Included 7_inspect/webhook_health.sql
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
    w.failing_since, w.circuit_opened_at, w.circuit_retry_at, w.last_delivered_at,
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
      statement_timestamp() - min(d.created_at) as oldest_pending,
      count(*) filter (where d.leased and d.next_attempt_at > statement_timestamp()) as in_flight
    from (
      select d.created_at, d.leased, d.next_attempt_at
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending'
      order by d.leased, d.next_attempt_at
      limit 10000
    ) as d
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
--! EndIncluded 7_inspect/webhook_health.sql
--! Included 7_inspect/backlog.sql
-- What waits and how long it has: one row.
--
-- Called by  psql; webhookpub.metrics.
--
-- Counting stops at 10,000, so that there is an answer when it matters most.

create or replace view webhookpub.backlog
  with (security_invoker = true)
as
  select
    e.events_pending,
    e.oldest_event,
    e.events_failing,
    case
      when p.count < 10000 then p.count
      -- What vacuum or analyze last found in an index of those that are pending.
      else greatest(p.count, (
        select c.reltuples::bigint
        from pg_class as c
        where c.oid = 'webhookpub.deliveries_due'::regclass
      ))
    end as deliveries_pending,
    d.deliveries_due,
    d.oldest_due,
    f.deliveries_in_flight
  from (
    select
      count(*) as events_pending,
      statement_timestamp() - min(w.created_at) as oldest_event,
      count(w.retry_at) as events_failing
    from (
      select e.created_at, e.retry_at
      from webhookpub.events as e
      where e.status = 'pending'
      order by e.expires_at
      limit 10000
    ) as w
  ) as e
  cross join (
    select count(*) as count
    from (
      select
      from webhookpub.deliveries as d
      where d.status = 'pending' and d.attempts >= 0
      order by d.next_attempt_at
      limit 10000
    ) as w
  ) as p
  cross join (
    select
      count(*) as deliveries_due,
      statement_timestamp() - min(w.next_attempt_at) as oldest_due
    from (
      select d.next_attempt_at
      from webhookpub.deliveries as d
      -- One look into an index for each; "offset 0" keeps the planner from joining.
      cross join lateral (
        select
        from webhookpub.webhooks as w
        where w.id = d.webhook_id and w.enabled and w.circuit_opened_at is null
        offset 0
      ) as w
      where d.status = 'pending'
        and d.attempts >= 0
        and d.next_attempt_at <= statement_timestamp()
      order by d.next_attempt_at
      limit 10000
    ) as w
  ) as d
  cross join (
    select count(*) filter (where w.leased) as deliveries_in_flight
    from (
      select d.leased
      from webhookpub.deliveries as d
      where d.status = 'pending'
        and d.attempts >= 0
        -- The longest lease.
        and d.next_attempt_at > statement_timestamp()
        and d.next_attempt_at <= statement_timestamp() + interval '45 seconds'
      order by d.next_attempt_at
      limit 10000
    ) as w
  ) as f;

comment on view webhookpub.backlog is
  'What waits and how long it has, in one row. Counts stop at 10,000, which then means that many or more.';
comment on column webhookpub.backlog.events_pending is
  'Events that wait for the fan-out.';
comment on column webhookpub.backlog.oldest_event is
  'How long the first of them has waited; more than a few seconds: no fan-out runs, or it fails.';
comment on column webhookpub.backlog.events_failing is
  'Those whose fan-out has failed and is tried again: event_log.last_error says why.';
comment on column webhookpub.backlog.deliveries_pending is
  'Deliveries that have not ended; above 10,000 an estimate, from the last vacuum or analyze.';
comment on column webhookpub.backlog.deliveries_due is
  'Those that could be sent now: their webhooks are enabled, and their circuits closed.';
comment on column webhookpub.backlog.oldest_due is
  'How long the first of them has been due; more than a few seconds: no worker runs, or its webhook is slow.';
comment on column webhookpub.backlog.deliveries_in_flight is
  'Those that a worker has: their answers are waited for.';
--! EndIncluded 7_inspect/backlog.sql
--! Included 7_inspect/metrics.sql
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
  cross join lateral (
    values
      ('publisher_lag_seconds', '{}'::jsonb, coalesce(extract(epoch from b.oldest_event), 0)::float8),
      ('events_pending', '{}', b.events_pending),
      ('events_failing', '{}', b.events_failing),
      ('delivery_lag_seconds', '{}', coalesce(extract(epoch from b.oldest_due), 0)),
      ('deliveries_pending', '{}', b.deliveries_pending),
      ('deliveries_due', '{}', b.deliveries_due),
      ('deliveries_in_flight', '{}', b.deliveries_in_flight),
      ('attempts_total', '{}', case when a.is_called then a.last_value else 0 end),
      ('publish_failures', '{}', f.count),
      ('webhooks', '{"state": "enabled"}', w.enabled),
      ('webhooks', '{"state": "disabled"}', w.disabled),
      ('webhooks_failing', '{}', w.failing),
      ('webhooks_circuit_open', '{}', w.open)
  ) as m (name, labels, value);

comment on view webhookpub.metrics is
  'Numbers for monitoring, one a row. docs/operations.md says what each means; counts of what waits stop at 10,000.';
comment on column webhookpub.metrics.name is
  'Its name, as for Prometheus: _seconds is a duration, _total only grows, any other goes up and down.';
comment on column webhookpub.metrics.labels is
  'What tells rows of one name apart; mostly empty.';
comment on column webhookpub.metrics.value is 'The number, as of now.';
--! EndIncluded 7_inspect/metrics.sql

--! Included 0_roles/grant_tables.sql
-- Says which role may read which table and view, and the little that it may write.
--
-- Called by  webhookpub.install_roles.
-- Locks      the tables with row-level security, for an instant, the first time only.
--
-- Not here: the secrets, and partitions, which would show the rows of everybody.

create or replace function webhookpub.grant_tables ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  revoke all on all tables in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant select on
    webhookpub.event_types, webhookpub.webhooks, webhookpub.events, webhookpub.envelopes,
    webhookpub.deliveries, webhookpub.attempts, webhookpub.publish_failures,
    webhookpub.tenants, webhookpub.envelopes_by_event, webhookpub.event_log,
    webhookpub.delivery_log, webhookpub.webhook_health
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
  -- What is not about one user alone.
  grant select on
    webhookpub.settings, webhookpub.backlog, webhookpub.metrics, webhookpub.attempts_recorded
  to webhookpub_operator, webhookpub_readonly;

  -- Neither where webhooks may point nor for how long things are kept.
  grant update (
    publish_enabled, max_payload_bytes, max_webhooks_per_user, request_timeout,
    auto_disable_after, auto_disable_min_failures
  ) on webhookpub.settings to webhookpub_operator;
  grant insert on webhookpub.event_types to webhookpub_operator;

  if not exists (
    select
    from pg_policy as p
    where p.polrelid = 'webhookpub.webhooks'::regclass and p.polname = 'webhooks_of_all_users'
  ) then
    create policy webhooks_of_all_users on webhookpub.webhooks
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy events_of_all_users on webhookpub.events
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy envelopes_of_all_users on webhookpub.envelopes
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy deliveries_of_all_users on webhookpub.deliveries
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy attempts_of_all_users on webhookpub.attempts
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy publish_failures_of_all_users on webhookpub.publish_failures
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy tenants_of_all_users on webhookpub.tenants
      for select to webhookpub_operator, webhookpub_readonly using (true);
  end if;
end;
$$;

comment on function webhookpub.grant_tables () is
  'Gives each role webhookpub_* the tables and views that it may read, and no others.';
--! EndIncluded 0_roles/grant_tables.sql
select webhookpub.install_roles();
