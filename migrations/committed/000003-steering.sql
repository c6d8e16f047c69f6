--! Previous: sha1:86563b01ed7985c6b82d66e7ad975a9f7c5f34ef
--! Hash: sha1:97deb78fcb920c5c2ba59498a61efed1eaac4f46
--! Message: steering

-- Steering and seeing everything from psql: replays, and the views that answer questions.

set local check_function_bodies = off;

alter table webhookpub.publish_failures add column retried_at timestamptz;
comment on column webhookpub.publish_failures.retried_at is
  'When retry_publish_failures last tried it in vain.';

-- A replay that is pending is not doubled. Only replays are in these two.
create unique index deliveries_one_pending_replay_per_event_and_webhook
  on webhookpub.deliveries (event_id, webhook_id)
  where replay_id is not null and status = 'pending';
create index deliveries_replays_by_event
  on webhookpub.deliveries (event_id) where replay_id is not null;

-- The newest, of all, of one user, of one webhook.
create index events_newest on webhookpub.events (created_at desc);
create index events_newest_by_user on webhookpub.events (user_id, created_at desc);
create index deliveries_newest on webhookpub.deliveries (created_at desc);
create index deliveries_newest_by_webhook
  on webhookpub.deliveries (webhook_id, created_at desc);

--! Included 1_publish/retry_publish_failures.sql
-- Publishes what the best-effort path could not, once its cause is gone.
--
-- Called by  psql, applications.
-- Locks      the failures that it takes, skipping those that somebody else has.
-- Returns    how many were published; they are removed from publish_failures.
--
-- What fails again keeps its new error and goes to the end of the line, so that it holds
-- up nothing. While publishing is switched off, nothing is tried.

create or replace function webhookpub.retry_publish_failures (
  p_limit integer default 100
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_failure webhookpub.publish_failures;
  v_sqlstate text;
  v_message text;
  v_count bigint := 0;
begin
  for v_failure in
    select f.*
    from webhookpub.publish_failures as f
    order by f.retried_at nulls first, f.id
    limit p_limit
    for update skip locked
  loop
    begin
      exit when public.webhook_publish_tx(
        v_failure.event_type, v_failure.user_id, v_failure.data, v_failure.agent_id,
        v_failure.conversation_id, v_failure.labels, v_failure.message_id,
        v_failure.dedup_key, v_failure.event_id
      ) is null;
      delete from webhookpub.publish_failures as f where f.id = v_failure.id;
      v_count := v_count + 1;
    exception when others then
      get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text;
      update webhookpub.publish_failures as f
      set sqlstate = v_sqlstate, message = v_message, retried_at = clock_timestamp()
      where f.id = v_failure.id;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.retry_publish_failures (integer) is
  'Tries to publish up to p_limit rows of publish_failures, those not yet retried first; returns how many went through.';
--! EndIncluded 1_publish/retry_publish_failures.sql
--! Included 0_webhooks/enabled_webhook.sql
-- Finds a webhook that is to be sent something now.
--
-- Called by  webhookpub.redeliver_since, webhookpub.test_webhook.
-- Locks      nothing when it is enabled: recording must not wait for a long replay.
-- Raises     WH020; WH021 when it is disabled or deleted.

create or replace function webhookpub.enabled_webhook (
  p_webhook_id text
)
  returns webhookpub.webhooks
  language plpgsql
  volatile
as $$
declare
  v_webhook webhookpub.webhooks;
begin
  select w.* into v_webhook
  from webhookpub.webhooks as w
  where w.id = p_webhook_id and w.enabled;
  if not found then
    v_webhook := webhookpub.lock_webhook(p_webhook_id);
  end if;
  if not v_webhook.enabled then
    raise exception using
      errcode = 'WH021',
      message = format('webhook %L is disabled: %s', p_webhook_id, v_webhook.disabled_reason),
      hint = 'Enable it first: select webhookpub.enable_webhook(…);';
  end if;
  return v_webhook;
end;
$$;

comment on function webhookpub.enabled_webhook (text) is
  'Returns a webhook that is enabled. Raises WH020 when there is none, WH021 when it is disabled or deleted.';
--! EndIncluded 0_webhooks/enabled_webhook.sql
--! Included 0_webhooks/test_webhook.sql
-- Sends a webhook one made-up event, outside the event log and tried only once.
--
-- Called by  applications, psql.
-- Returns    the delivery's id; null when publishing is switched off.
-- Raises     WH002, WH020, WH021.

create or replace function webhookpub.test_webhook (
  p_webhook_id text,
  p_event_type text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook constant webhookpub.webhooks := webhookpub.enabled_webhook(p_webhook_id);
  v_now constant timestamptz := clock_timestamp();
  v_id constant text := 'whd_' || webhookpub.random_hex();
  -- What it listens to, by its own name if possible; else anything of the catalog.
  v_event_type constant text := coalesce(p_event_type, (
    select t.name
    from webhookpub.event_types as t
    order by
      array_position(v_webhook.events, t.name),
      v_webhook.events && webhookpub.type_patterns(t.name) desc,
      t.name
    limit 1
  ));
  v_event record;
begin
  v_event := webhookpub.compose_event(
    v_event_type, v_webhook.user_id,
    jsonb_build_object('test', true, 'webhook_id', v_webhook.id),
    null, null, '{}', null, null, v_now, null
  );
  if v_event.event_id is null then
    return null;
  end if;

  insert into webhookpub.envelopes (event_id, created_at, user_id, body)
  values (v_event.event_id, v_now, v_webhook.user_id, v_event.envelope);
  insert into webhookpub.deliveries
    (id, webhook_id, event_id, event_type, event_created_at, replay_id, max_attempts,
     next_attempt_at, created_at, expires_at)
  select
    v_id, v_webhook.id, v_event.event_id, v_event_type, v_now,
    'test_' || webhookpub.random_hex(), 1, v_now, v_now, v_now + s.delivery_retention
  from webhookpub.settings as s;
  perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  return v_id;
end;
$$;

comment on function webhookpub.test_webhook (text, text) is
  'Sends a webhook one made-up event, with {"test": true} in its data, tried once; returns the delivery''s id. Raises WH002, WH020, WH021.';
--! EndIncluded 0_webhooks/test_webhook.sql
--! Included 5_retry/match_decision.sql
-- Reads for which webhooks an event was, as it was decided when it was fanned out.
--
-- Called by  webhookpub.redeliver, webhookpub.check_replay.
-- Returns    one row a webhook, with what a replay needs; none while the event is pending.
--            An event of the direct path has no row in events: there its first deliveries
--            are the decision, as long as its bytes are kept.

create or replace function webhookpub.match_decision (
  p_event_id text
)
  returns table (
    webhook_id text,
    event_type text,
    event_created_at timestamptz,
    message_id text
  )
  language sql
  stable
as $$
  select m.webhook_id, e.type, e.created_at, e.message_id
  from webhookpub.events as e
  cross join unnest(e.matched_webhook_ids) as m (webhook_id)
  where e.id = p_event_id
  union all
  select d.webhook_id, d.event_type, d.event_created_at, d.message_id
  from webhookpub.deliveries as d
  where d.event_id = p_event_id
    and d.replay_id is null
    and not exists (select from webhookpub.events as e where e.id = p_event_id)
    and exists (
      select
      from webhookpub.envelopes as n
      where n.event_id = p_event_id and n.created_at = d.event_created_at
    );
$$;

comment on function webhookpub.match_decision (text) is
  'The webhooks that an event was for when it was fanned out; replays go by it.';
--! EndIncluded 5_retry/match_decision.sql
--! Included 5_retry/check_replay.sql
-- Refuses a replay of what is not there. What is somebody else's is not there either.
--
-- Called by  webhookpub.redeliver.
-- Raises     WH020.

create or replace function webhookpub.check_replay (
  p_event_id text,
  p_webhook_id text
)
  returns void
  language plpgsql
  stable
as $$
begin
  if not exists (select from webhookpub.events as e where e.id = p_event_id)
    and not exists (select from webhookpub.match_decision(p_event_id))
  then
    raise exception using
      errcode = 'WH020',
      message = format('no such event: %s', coalesce(quote_literal(left(p_event_id, 200)), 'null')),
      hint = 'Events are kept for settings.event_retention.';
  end if;
  perform from webhookpub.match_decision(p_event_id) as m where m.webhook_id = p_webhook_id;
  if p_webhook_id is not null and not found then
    raise exception using
      errcode = 'WH020',
      message = format(
        'no such webhook: event %L was not for %L', p_event_id, left(p_webhook_id, 100)
      ),
      hint = 'See for which it was with: select matched_webhook_ids from webhookpub.events;';
  end if;
end;
$$;

comment on function webhookpub.check_replay (text, text) is
  'Raises WH020 when there is no such event, or it was not for that webhook.';
--! EndIncluded 5_retry/check_replay.sql
--! Included 5_retry/redeliver.sql
-- Sends an event again: to one webhook, or to every one that it was for. It is not matched
-- again; envelope and event id are the same, the signature is by the current secret.
--
-- Called by  psql, applications.
-- Returns    one row a webhook. outcome is
--            queued   a new delivery, delivery_id
--            pending  delivery_id is still under way, or waits for its next attempt
--            skipped  reason says why: the webhook is disabled or deleted
-- Raises     WH020.

create or replace function webhookpub.redeliver (
  p_event_id text,
  p_webhook_id text default null
)
  returns table (
    webhook_id text,
    delivery_id text,
    outcome text,
    reason text
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := clock_timestamp();
  v_created text[];
begin
  perform webhookpub.check_replay(p_event_id, p_webhook_id);

  with created as (
    insert into webhookpub.deliveries as d
      (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
       max_attempts, next_attempt_at, created_at, expires_at)
    select
      'whd_' || webhookpub.random_hex(), w.id, p_event_id, m.event_type,
      m.event_created_at, m.message_id, 'rep_' || webhookpub.random_hex(),
      cardinality(w.retry_schedule) + 1, v_now, v_now, v_now + s.delivery_retention
    from webhookpub.match_decision(p_event_id) as m
    join webhookpub.webhooks as w on w.id = m.webhook_id and w.enabled
    cross join webhookpub.settings as s
    where (p_webhook_id is null or w.id = p_webhook_id)
      and not exists (
        select
        from webhookpub.deliveries as f
        where f.event_id = p_event_id and f.webhook_id = w.id
          and f.replay_id is null and f.status = 'pending'
      )
    order by w.id
    on conflict (event_id, webhook_id) where replay_id is not null and status = 'pending'
      do nothing
    returning d.id
  )
  select array_agg(c.id) into v_created from created as c;

  -- A statement of its own: it sees the replay that somebody else has just committed.
  return query
  select
    w.id,
    l.id,
    case
      when not w.enabled then 'skipped'
      when l.id = any (v_created) then 'queued'
      else 'pending'
    end,
    case
      when w.deleted_at is not null then 'the webhook is deleted'
      when not w.enabled then 'the webhook is disabled: ' || w.disabled_reason
      when l.id = any (v_created) then null
      else 'this delivery has not ended'
    end
  from webhookpub.match_decision(p_event_id) as m
  join webhookpub.webhooks as w on w.id = m.webhook_id
  left join lateral (
    select d.id
    from webhookpub.deliveries as d
    where d.event_id = p_event_id and d.webhook_id = w.id and w.enabled
      and (d.replay_id is null or d.replay_id is not null)
    order by d.status = 'pending' desc, d.created_at desc
    limit 1
  ) as l on true
  where p_webhook_id is null or w.id = p_webhook_id
  order by w.created_at, w.id;

  perform webhookpub.add_deliver_jobs(array(
    select d.webhook_id from webhookpub.deliveries as d where d.id = any (v_created)
  ));
end;
$$;

comment on function webhookpub.redeliver (text, text) is
  'Sends an event again, to one webhook or to all that it was for; outcome is queued, pending (its last delivery has not ended) or skipped. Raises WH020.';
--! EndIncluded 5_retry/redeliver.sql
--! Included 5_retry/replayable_events.sql
-- Finds what a webhook can be sent again, in one pass over its deliveries.
--
-- Called by  webhookpub.redeliver_since.
-- Returns    the events published from p_since to before p_until that were for the
--            webhook and have no delivery to it that is pending; with p_only_failed, those
--            whose last delivery to it failed.

create or replace function webhookpub.replayable_events (
  p_webhook webhookpub.webhooks,
  p_since timestamptz,
  p_until timestamptz,
  p_only_failed boolean
)
  returns table (
    event_id text,
    event_type text,
    event_created_at timestamptz,
    message_id text
  )
  language sql
  stable
  -- Much meets much here, whatever stale statistics say.
  set enable_nestloop = off
  set enable_seqscan = off
  set jit = off
as $$
  with delivery as materialized (
    select
      d.event_id, d.event_type, d.event_created_at, d.message_id, d.replay_id, d.status,
      d.created_at
    from webhookpub.deliveries as d
    where d.webhook_id = p_webhook.id
      -- No delivery is older than its event, unless the clock was put back.
      and d.created_at >= p_since - interval '1 hour'
      and d.event_created_at >= p_since
      and d.event_created_at < p_until
  ),
  last_delivery as (
    select distinct on (d.event_id) d.event_id, d.status
    from delivery as d
    order by d.event_id, d.status = 'pending' desc, d.created_at desc
  ),
  matched as (
    select e.id as event_id, e.type as event_type, e.created_at as event_created_at, e.message_id
    from webhookpub.events as e
    where e.user_id = p_webhook.user_id
      and e.created_at >= p_since
      and e.created_at < p_until
      and p_webhook.id = any (e.matched_webhook_ids)
    union all
    -- Those of the direct path have no event row; their bytes may have expired.
    select d.event_id, d.event_type, d.event_created_at, d.message_id
    from delivery as d
    where d.replay_id is null
      and (select e.id from webhookpub.events as e where e.id = d.event_id) is null
      and (
        select n.event_id
        from webhookpub.envelopes as n
        where n.event_id = d.event_id and n.created_at = d.event_created_at
      ) is not null
  )
  select m.event_id, m.event_type, m.event_created_at, m.message_id
  from matched as m
  left join last_delivery as l on l.event_id = m.event_id
  where case
    when p_only_failed then l.status = 'failed'
    else l.status is distinct from 'pending'
  end;
$$;

comment on function webhookpub.replayable_events
  (webhookpub.webhooks, timestamptz, timestamptz, boolean) is
  'The events of a time that can be sent to a webhook again, by the stored match decision.';
--! EndIncluded 5_retry/replayable_events.sql
--! Included 5_retry/redeliver_since.sql
-- Sends a webhook again what was published for it in some time: in one statement, however
-- much that is. It drains as everything does, within the webhook's max_in_flight.
--
-- Called by  psql, applications.
-- Returns    how many deliveries were queued; a dry run only counts.
-- Raises     WH020, WH021.

create or replace function webhookpub.redeliver_since (
  p_webhook_id text,
  p_since timestamptz,
  p_until timestamptz default now(),
  p_only_failed boolean default true,
  p_dry_run boolean default false
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook constant webhookpub.webhooks := webhookpub.enabled_webhook(p_webhook_id);
  v_now constant timestamptz := clock_timestamp();
  v_count bigint;
begin
  if p_dry_run then
    select count(*) into v_count
    from webhookpub.replayable_events(v_webhook, p_since, p_until, p_only_failed);
    return v_count;
  end if;

  insert into webhookpub.deliveries
    (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
     max_attempts, next_attempt_at, created_at, expires_at)
  select
    'whd_' || webhookpub.random_hex(), v_webhook.id, r.event_id, r.event_type,
    r.event_created_at, r.message_id, 'rep_' || webhookpub.random_hex(),
    cardinality(v_webhook.retry_schedule) + 1, v_now, v_now, v_now + s.delivery_retention
  from webhookpub.replayable_events(v_webhook, p_since, p_until, p_only_failed) as r
  cross join webhookpub.settings as s
  order by r.event_id
  on conflict (event_id, webhook_id) where replay_id is not null and status = 'pending'
    do nothing;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  end if;
  return v_count;
end;
$$;

comment on function webhookpub.redeliver_since
  (text, timestamptz, timestamptz, boolean, boolean) is
  'Sends a webhook again what was published for it from p_since to before p_until, unless it is pending: all, or only what failed; returns how many. Raises WH020, WH021.';
--! EndIncluded 5_retry/redeliver_since.sql
--! Included 7_inspect/event_log.sql
-- What happened to events, newest first.
--
-- Called by  psql: table webhookpub.event_log limit 50; or where event_id = '…', where
--            user_id = '…'. Each of these walks an index.

create or replace view webhookpub.event_log
  with (security_invoker = true)
as
  select
    e.created_at,
    e.id as event_id,
    e.user_id,
    e.type,
    e.status,
    c.delivered,
    c.pending,
    c.failed,
    e.last_error,
    e.agent_id,
    e.conversation_id,
    e.labels,
    e.message_id,
    e.matched_webhook_ids,
    e.processed_at
  from webhookpub.events as e
  cross join lateral (
    select
      count(*) filter (where d.status = 'delivered') as delivered,
      count(*) filter (where d.status = 'pending') as pending,
      count(*) filter (where d.status in ('failed', 'cancelled')) as failed
    from webhookpub.deliveries as d
    where d.event_id = e.id
      -- First deliveries and replays have an index each; said so, both are used.
      and (d.replay_id is null or d.replay_id is not null)
  ) as c
  order by e.created_at desc;

comment on view webhookpub.event_log is
  'Events, newest first, and how many deliveries each has. Not those of webhook_publish, which leaves none.';
comment on column webhookpub.event_log.delivered is 'How many of its deliveries succeeded, replays included.';
comment on column webhookpub.event_log.pending is 'How many of its deliveries have not ended.';
comment on column webhookpub.event_log.failed is 'How many of its deliveries failed or were cancelled.';
comment on column webhookpub.event_log.last_error is 'Why its last fan-out failed.';
--! EndIncluded 7_inspect/event_log.sql
--! Included 7_inspect/delivery_log.sql
-- What happened to deliveries, newest first.
--
-- Called by  psql: table webhookpub.delivery_log limit 50; or where event_id = '…', where
--            webhook_id = '…', where user_id = '…'. Each of these walks an index.

create or replace view webhookpub.delivery_log
  with (security_invoker = true)
as
  select
    d.created_at,
    d.id as delivery_id,
    w.user_id,
    d.webhook_id,
    w.url,
    d.event_id,
    d.event_type,
    d.replay_id,
    d.status,
    d.attempts,
    d.max_attempts,
    d.last_status_code,
    d.last_error,
    d.last_attempt_at,
    d.next_attempt_at,
    d.delivered_at,
    d.message_id
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  -- First deliveries and replays have an index each; said so, both are used.
  where d.replay_id is null or d.replay_id is not null
  order by d.created_at desc;

comment on view webhookpub.delivery_log is
  'Deliveries, newest first, with the user and the URL that they are for.';
comment on column webhookpub.delivery_log.replay_id is
  'Null for the first delivery of an event; rep_… for a replay, test_… for one of test_webhook.';
comment on column webhookpub.delivery_log.last_error is
  'What went wrong in its last attempt; null when that succeeded.';
comment on column webhookpub.delivery_log.next_attempt_at is
  'When it is due; while a worker has it, when its lease ends.';
--! EndIncluded 7_inspect/delivery_log.sql
--! Included 7_inspect/webhook_health.sql
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
--! EndIncluded 7_inspect/webhook_health.sql
--! Included 7_inspect/backlog.sql
-- What waits, and how long it has: one row for events, one for deliveries.
--
-- Called by  psql; webhookpub.metrics.
--
-- It counts exactly, over the indexes of what is pending.

create or replace view webhookpub.backlog
  with (security_invoker = true)
as
  select
    'events' as what,
    count(*) as pending,
    count(*) filter (where e.retry_at is null or e.retry_at <= now()) as due,
    0::bigint as in_flight,
    count(*) filter (where e.retry_at > now()) as waiting,
    0::bigint as on_hold,
    min(e.created_at) as oldest_at,
    now() - min(e.created_at) as oldest_age
  from webhookpub.events as e
  where e.status = 'pending'
  union all
  select
    'deliveries',
    count(*),
    count(*) filter (where w.enabled and d.next_attempt_at <= now()),
    count(*) filter (where d.leased and d.next_attempt_at > now()),
    count(*) filter (where w.enabled and not d.leased and d.next_attempt_at > now()),
    count(*) filter (
      where not w.enabled and (not d.leased or d.next_attempt_at <= now())
    ),
    min(d.created_at),
    now() - min(d.created_at)
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.status = 'pending';

comment on view webhookpub.backlog is
  'Pending events and deliveries: how many, and since when. pending = due + in_flight + waiting + on_hold.';
comment on column webhookpub.backlog.what is 'events (for fan-out) or deliveries.';
comment on column webhookpub.backlog.due is
  'To be taken now. Of deliveries: those above max_in_flight wait here, too.';
comment on column webhookpub.backlog.in_flight is 'A worker has it.';
comment on column webhookpub.backlog.waiting is 'For its next attempt, after a failure.';
comment on column webhookpub.backlog.on_hold is 'Until its webhook is enabled.';
comment on column webhookpub.backlog.oldest_at is 'When the oldest of them was made.';
--! EndIncluded 7_inspect/backlog.sql
--! Included 7_inspect/metrics.sql
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
--! EndIncluded 7_inspect/metrics.sql

revoke execute on all functions in schema webhookpub from public;
