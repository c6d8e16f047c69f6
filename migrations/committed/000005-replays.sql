--! Previous: sha1:fe253962f9a74ef816af29d07a9499665e3a5bbe
--! Hash: sha1:8e1d4656e8f7a500038270d87a55674a8a89c8b7
--! Message: replays

-- Replays and tests: deliveries beside the first one of an event.
--
-- Workers are stopped for an upgrade: no more than a direct publisher waits for an index.
--
-- The first two are small: of what is written all the time, nothing enters them.
-- squawk-ignore require-concurrent-index-creation
create unique index deliveries_one_pending_replay_per_event_and_webhook
  on webhookpub.deliveries (event_id, webhook_id)
  where replay_id is not null and status = 'pending';
-- squawk-ignore require-concurrent-index-creation
create index deliveries_replays_by_event
  on webhookpub.deliveries (event_id, webhook_id) where replay_id is not null;
comment on column webhookpub.deliveries.replay_id is
  'Null for the first delivery; rpl_… names the call that replayed it, test_… a test.';

-- What one webhook got, in the order of time.
-- squawk-ignore require-concurrent-index-creation
create index deliveries_by_webhook on webhookpub.deliveries (webhook_id, id);

-- Whoever was tried longest ago is next, so that what fails for ever holds up nobody.
alter table webhookpub.publish_failures
  add column tried_at timestamptz not null default now();
-- squawk-ignore require-concurrent-index-creation
create index publish_failures_by_tried_at on webhookpub.publish_failures (tried_at, id);
comment on column webhookpub.publish_failures.tried_at is
  'When it was last tried to publish it.';

--! Included 0_roles/grant_functions.sql
-- Says which role may call which function.
--
-- Called by  webhookpub.install_roles.
--
-- A function that stands here for nobody is called by other functions only.

create or replace function webhookpub.grant_functions ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  grant usage on schema webhookpub to
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;
  revoke all on all functions in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant execute on function
    public.webhook_publish_tx, public.webhook_publish_best_effort_tx, public.webhook_publish,
    -- random_hex is what random_event_id is made of.
    webhookpub.random_event_id, webhookpub.random_hex
  to webhookpub_publisher;

  grant execute on function
    webhookpub.closed_networks,
    webhookpub.wake, webhookpub.enter_fan_out, webhookpub.leave_fan_out, webhookpub.fan_out,
    webhookpub.lease_deliveries, webhookpub.record_attempts, webhookpub.maintain
  to webhookpub_worker;

  -- The secret that create_webhook and rotate_secret make is shown to their caller; no
  -- function shows one that exists.
  grant execute on function
    webhookpub.create_webhook, webhookpub.update_webhook, webhookpub.rotate_secret,
    webhookpub.enable_webhook, webhookpub.disable_webhook, webhookpub.delete_webhook,
    webhookpub.redeliver, webhookpub.redeliver_since, webhookpub.test_webhook,
    webhookpub.retry_publish_failures,
    webhookpub.fan_out, webhookpub.maintain
  to webhookpub_operator;

  -- What explain_event calls runs as its caller, so that it shows what its caller may see.
  grant execute on function
    webhookpub.explain_event, webhookpub.stored_envelope, webhookpub.type_patterns,
    webhookpub.unmatched_clause, webhookpub.data_holds, webhookpub.current_user_id
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.event_id, webhookpub.is_valid_event_type
  to webhookpub_publisher, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.version
  to webhookpub_worker, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
end;
$$;

comment on function webhookpub.grant_functions () is
  'Gives each role webhookpub_* the functions that it may call, and no others.';
--! EndIncluded 0_roles/grant_functions.sql
--! Included 0_webhooks/find_webhook.sql
-- Finds the webhook that somebody names, without locking it.
--
-- Called by  webhookpub.lock_webhook, webhookpub.redeliver_since, webhookpub.test_webhook.
-- Raises     WH020; WH021 when it is deleted, or disabled where it must not be.

create or replace function webhookpub.find_webhook (
  p_webhook_id text,
  p_enabled_only boolean default false
)
  returns webhookpub.webhooks
  language plpgsql
  stable
as $$
declare
  v_webhook webhookpub.webhooks;
begin
  select w.* into v_webhook from webhookpub.webhooks as w where w.id = p_webhook_id;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format('no such webhook: %s', coalesce(quote_literal(left(p_webhook_id, 100)), 'null')),
      hint = 'List them with: select id, user_id, url from webhookpub.webhooks;';
  end if;
  if v_webhook.deleted_at is not null then
    raise exception using
      errcode = 'WH021',
      message = format('webhook %L was deleted at %s', p_webhook_id, v_webhook.deleted_at),
      hint = 'Deleting is for good: create a new webhook.';
  end if;
  if p_enabled_only and not v_webhook.enabled then
    raise exception using
      errcode = 'WH021',
      message = format(
        'webhook %L is disabled since %s: %s',
        p_webhook_id, v_webhook.disabled_at, v_webhook.disabled_reason
      ),
      hint = 'Nothing is sent to it before webhookpub.enable_webhook.';
  end if;
  return v_webhook;
end;
$$;

comment on function webhookpub.find_webhook (text, boolean) is
  'Returns a webhook. Raises WH020 when there is none, WH021 when it is deleted or, if p_enabled_only, disabled.';
--! EndIncluded 0_webhooks/find_webhook.sql
--! Included 0_webhooks/lock_webhook.sql
-- Finds the webhook that somebody wants to change, and locks it.
--
-- Called by  the functions that change one.
-- Locks      the webhook, until the transaction ends.
-- Raises     WH020; WH021 when it is deleted.

create or replace function webhookpub.lock_webhook (
  p_webhook_id text
)
  returns webhookpub.webhooks
  language plpgsql
  volatile
as $$
begin
  perform from webhookpub.webhooks as w where w.id = p_webhook_id for no key update;
  -- Only now, as the last holder of the lock has left it.
  return webhookpub.find_webhook(p_webhook_id);
end;
$$;

comment on function webhookpub.lock_webhook (text) is
  'Locks a webhook and returns it. Raises WH020 when there is none, WH021 when it is deleted.';
--! EndIncluded 0_webhooks/lock_webhook.sql
--! Included 4_record/publish_delivery_failed.sql
-- Tells a user's webhooks that deliveries ended without success.
--
-- Called by  webhookpub.record_attempts, in the transaction that ends them.
--
-- Never about a delivery of a webhook.* event: that would go on for ever. Nor about a test:
-- whoever made it looks at it. Best effort: a catalog without the type must not keep an
-- answer from being recorded.

create or replace function webhookpub.publish_delivery_failed (
  p_delivery_ids text[]
)
  returns void
  language sql
  volatile
as $$
  select count(public.webhook_publish_best_effort_tx(
    'webhook.delivery_failed',
    w.user_id,
    jsonb_build_object(
      'delivery_id', d.id,
      'webhook_id', d.webhook_id,
      'url', w.url,
      'event_id', d.event_id,
      'event_type', d.event_type,
      'attempts', d.attempts,
      'last_status_code', d.last_status_code,
      'last_error', d.last_error
    ),
    event_id => webhookpub.event_id('webhook.delivery_failed', d.id)
  ))
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.id = any (p_delivery_ids)
    and d.event_type not like 'webhook.%'
    and starts_with(d.replay_id, 'test_') is not true;
$$;

comment on function webhookpub.publish_delivery_failed (text[]) is
  'Publishes webhook.delivery_failed for each of these deliveries, but never about a webhook.* event or a test.';
--! EndIncluded 4_record/publish_delivery_failed.sql
--! Included 6_maintain/disable_failing.sql
-- Disables webhooks that have only failed for too long.
--
-- Called by  webhookpub.maintain.
-- Locks      the webhooks, in the order of their ids: a success that is being recorded is
--            waited for, and counts.
-- Returns    how many.

create or replace function webhookpub.disable_failing (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language sql
  volatile
as $$
  select webhookpub.disable_webhooks(array(
    select w.id
    from webhookpub.webhooks as w
    cross join webhookpub.settings as s
    where w.enabled
      and w.failing_since <= p_now - s.auto_disable_after
      and w.failures >= s.auto_disable_min_failures
    order by w.id
    for no key update of w
  ), 'failing');
$$;

comment on function webhookpub.disable_failing (timestamptz) is
  'Disables webhooks without a success, but enough failures, for settings.auto_disable_after.';
--! EndIncluded 6_maintain/disable_failing.sql
--! Included 8_steer/find_event.sql
-- Finds an event that was fanned out, and with it the webhooks that it matched then.
--
-- Called by  webhookpub.redeliver.
-- Returns    the event. One of the direct path has no row, nor has one that has expired:
--            it is put together from its first deliveries, as far as they tell.
-- Raises     WH020; WH022 when it has not been fanned out yet.

create or replace function webhookpub.find_event (
  p_event_id text
)
  returns webhookpub.events
  language plpgsql
  stable
as $$
declare
  v_event webhookpub.events;
begin
  select e.* into v_event from webhookpub.events as e where e.id = p_event_id;
  if v_event.status = 'pending' then
    raise exception using
      errcode = 'WH022',
      message = format('event %L has not been fanned out yet', p_event_id),
      hint = 'What it matches is not decided yet: is a worker running?';
  end if;
  if v_event.id is not null then
    return v_event;
  end if;

  select d.event_id, w.user_id, d.event_type, d.message_id, d.event_created_at, array_agg(w.id)
  into
    v_event.id, v_event.user_id, v_event.type, v_event.message_id, v_event.created_at,
    v_event.matched_webhook_ids
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.event_id = p_event_id and d.replay_id is null
  group by d.event_id, w.user_id, d.event_type, d.message_id, d.event_created_at;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format('no such event: %s', coalesce(quote_literal(left(p_event_id, 210)), 'null')),
      hint = 'Events are kept for settings.event_retention; one of the direct path only if it matched.';
  end if;
  return v_event;
end;
$$;

comment on function webhookpub.find_event (text) is
  'An event that was fanned out, with the webhooks that it matched. Raises WH020, WH022.';
--! EndIncluded 8_steer/find_event.sql
--! Included 8_steer/redeliver.sql
-- Sends an event again, to one webhook or to every one that it matched.
--
-- Called by  psql, applications.
-- Locks      nothing that anybody waits for, but for who replays the same event to the
--            same webhook at this moment.
-- Returns    one row a webhook: created (a new delivery), pending (a replay that is still
--            under way) or skipped, and why.
-- Raises     WH020, WH022.
--
-- Nothing is matched again: the webhooks are those of the decision when it was fanned out.
-- The bytes and the event's id are the same; secret, URL and schedule are today's.

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
  v_replay_id constant text := 'rpl_' || webhookpub.random_hex();
  v_event constant webhookpub.events := webhookpub.find_event(p_event_id);
  v_webhook_ids text[] := v_event.matched_webhook_ids;
  v_is_kept boolean;
begin
  if p_webhook_id is not null then
    select array_agg(w.id) into v_webhook_ids
    from webhookpub.webhooks as w
    where w.id = p_webhook_id and w.user_id = v_event.user_id;
    if v_webhook_ids is null then
      raise exception using
        errcode = 'WH020',
        message = format('no such webhook of the event''s user: %L', left(p_webhook_id, 100)),
        hint = 'List them with: select id, user_id, url from webhookpub.webhooks;';
    end if;
  end if;
  v_is_kept := webhookpub.stored_envelope(v_event.id, v_event.created_at) is not null;

  insert into webhookpub.deliveries
    (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
     max_attempts, next_attempt_at, created_at, expires_at)
  select
    webhookpub.delivery_id(v_now), w.id, v_event.id, v_event.type, v_event.created_at,
    v_event.message_id, v_replay_id, cardinality(w.retry_schedule) + 1, v_now, v_now,
    v_now + s.delivery_retention
  from webhookpub.webhooks as w
  cross join webhookpub.settings as s
  where w.id = any (v_webhook_ids)
    and w.id = any (v_event.matched_webhook_ids)
    and w.enabled
    and v_is_kept
  order by w.id
  on conflict (event_id, webhook_id) where replay_id is not null and status = 'pending'
    do nothing;

  return query
  with target as materialized (
    select
      w.id,
      w.created_at,
      case
        when w.id <> all (v_event.matched_webhook_ids)
          then 'unmatched: the event did not match it when it was fanned out'
        when w.deleted_at is not null then 'deleted'
        when not w.enabled then 'disabled: ' || w.disabled_reason
        when not v_is_kept then 'expired: the envelope is not kept any more'
      end as reason
    from webhookpub.webhooks as w
    where w.id = any (v_webhook_ids)
  )
  select
    t.id,
    d.id,
    case
      when t.reason is not null then 'skipped'
      when d.replay_id = v_replay_id then 'created'
      else 'pending'
    end,
    coalesce(t.reason, case
      when d.replay_id <> v_replay_id then format('a replay is under way since %s', d.created_at)
    end)
  from target as t
  left join lateral (
    select d.*
    from webhookpub.deliveries as d
    where t.reason is null
      and d.event_id = v_event.id and d.webhook_id = t.id and d.replay_id is not null
    order by d.status = 'pending' desc, d.id desc
    limit 1
  ) as d on true
  order by t.created_at, t.id;

  perform webhookpub.add_deliver_jobs(array(
    select d.webhook_id
    from webhookpub.deliveries as d
    where d.event_id = v_event.id and d.replay_id = v_replay_id
  ));
end;
$$;

comment on function webhookpub.redeliver (text, text) is
  'Sends an event again, to one webhook or to all that it matched; never matches again. Returns what became of each: created, pending or skipped. Raises WH020, WH022.';
--! EndIncluded 8_steer/redeliver.sql
--! Included 8_steer/redeliver_since.sql
-- Sends a webhook again what was published for it within a time.
--
-- Called by  psql, applications.
-- Locks      nothing that anybody waits for, but for who replays the same to the same
--            webhook at this moment.
-- Returns    how many deliveries were made, or would have been.
-- Raises     WH020, WH021, WH022.
--
-- Nothing is matched again: what was delivered to the webhook is the decision. An event
-- counts by its last delivery, first or replay; one that has a pending delivery is on its
-- way already.

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
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_replay_id constant text := 'rpl_' || webhookpub.random_hex();
  v_webhook constant webhookpub.webhooks := webhookpub.find_webhook(p_webhook_id, true);
  -- No delivery is older than its event, and ids are in the order of time.
  v_first_id constant text := left(webhookpub.delivery_id(greatest(p_since, 'epoch')), 16);
  v_expires_at timestamptz;
  v_count bigint;
begin
  if (p_since < p_until) is not true then
    raise exception using
      errcode = 'WH022',
      message = format(
        'p_since %s must be before p_until %s',
        coalesce(p_since::text, 'null'), coalesce(p_until::text, 'null')
      ),
      hint = 'Events count by when they were published: from p_since on, before p_until.';
  end if;
  if p_only_failed is null or p_dry_run is null then
    raise exception using
      errcode = 'WH022',
      message = 'p_only_failed and p_dry_run must be true or false, not null',
      hint = 'Leave them out to replay what failed.';
  end if;

  select v_now + s.delivery_retention into v_expires_at from webhookpub.settings as s;
  with last as (
    select distinct on (d.event_id)
      d.event_id, d.event_type, d.event_created_at, d.message_id, d.status
    from webhookpub.deliveries as d
    where d.webhook_id = v_webhook.id
      and d.id >= v_first_id
      and d.event_created_at >= p_since
      and d.event_created_at < p_until
      and starts_with(d.replay_id, 'test_') is not true
    order by d.event_id, d.status = 'pending' desc, d.id desc
  ),
  replayable as materialized (
    select l.*
    from last as l
    where (l.status = 'failed' or (l.status = 'delivered' and not p_only_failed))
      and exists (
        select
        from webhookpub.envelopes as n
        where n.event_id = l.event_id and n.created_at = l.event_created_at
          and n.created_at >= p_since and n.created_at < p_until
      )
  ),
  created as (
    insert into webhookpub.deliveries
      (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
       max_attempts, next_attempt_at, created_at, expires_at)
    select
      webhookpub.delivery_id(v_now), v_webhook.id, r.event_id, r.event_type,
      r.event_created_at, r.message_id, v_replay_id,
      cardinality(v_webhook.retry_schedule) + 1, v_now, v_now, v_expires_at
    from replayable as r
    where not p_dry_run
    order by r.event_created_at
    on conflict (event_id, webhook_id) where replay_id is not null and status = 'pending'
      do nothing
    returning id
  )
  select case when p_dry_run
    then (select count(*) from replayable)
    else (select count(*) from created)
  end
  into v_count;

  if v_count > 0 and not p_dry_run then
    perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  end if;
  return v_count;
end;
$$;

comment on function webhookpub.redeliver_since (text, timestamptz, timestamptz, boolean, boolean) is
  'Sends a webhook again the events published from p_since to before p_until: those that failed, or all; a dry run only counts. Raises WH020, WH021, WH022.';
--! EndIncluded 8_steer/redeliver_since.sql
--! Included 8_steer/test_webhook.sql
-- Sends a webhook an event that has not happened, to see whether it gets through.
--
-- Called by  psql, applications.
-- Returns    the id of the delivery. There is one attempt, and no row in events.
-- Raises     WH002, WH020, WH021.
--
-- Its attempt counts for the webhook's health like any other; that it failed is told to
-- nobody else.

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
  v_now constant timestamptz := clock_timestamp();
  v_webhook constant webhookpub.webhooks := webhookpub.find_webhook(p_webhook_id, true);
  v_event_id constant text := webhookpub.random_event_id();
  v_delivery_id constant text := webhookpub.delivery_id(v_now);
  v_type text;
begin
  -- By default something that it listens to: what it names first, then what it includes.
  select t.name into v_type
  from webhookpub.event_types as t
  where case
    when p_event_type is not null then t.name = p_event_type
    else v_webhook.events && webhookpub.type_patterns(t.name)
  end
  order by array_position(v_webhook.events, t.name), t.name like 'webhook.%', t.name
  limit 1;
  if not found then
    raise exception using
      errcode = 'WH002',
      message = case
        when p_event_type is null
          then format('webhook %L listens to no event type of the catalog', v_webhook.id)
        else format('event type %L is not in the catalog', left(p_event_type, 100))
      end,
      hint = 'List it with: table webhookpub.event_types; name one as p_event_type.';
  end if;

  insert into webhookpub.envelopes (event_id, created_at, user_id, body)
  values (
    v_event_id, v_now, v_webhook.user_id,
    '{"event": "' || v_type || '", "id": "' || v_event_id
      || '", "created_at": "' || webhookpub.rfc3339(v_now)
      || '", "data": {"test": true, "message": "A test by webhookpub: this has not happened."}}'
  );
  insert into webhookpub.deliveries
    (id, webhook_id, event_id, event_type, event_created_at, replay_id, max_attempts,
     next_attempt_at, created_at, expires_at)
  select
    v_delivery_id, v_webhook.id, v_event_id, v_type, v_now, 'test_' || webhookpub.random_hex(),
    1, v_now, v_now, v_now + s.delivery_retention
  from webhookpub.settings as s;
  perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  return v_delivery_id;
end;
$$;

comment on function webhookpub.test_webhook (text, text) is
  'Sends a webhook one test delivery, of a type that it listens to by default; returns its id. Raises WH002, WH020, WH021.';
--! EndIncluded 8_steer/test_webhook.sql
--! Included 8_steer/retry_publish_failures.sql
-- Publishes what the best-effort path could not, as far as it can be published now.
--
-- Called by  psql, applications.
-- Locks      the failures that it takes, skipping those that somebody else has.
-- Returns    how many were published. What fails again stays, with its new error, and
--            goes behind those that were not tried for longer.

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
  perform from webhookpub.settings as s where s.publish_enabled;
  if not found then
    return 0;
  end if;
  for v_failure in
    select f.*
    from webhookpub.publish_failures as f
    order by f.tried_at, f.id
    limit greatest(p_limit, 0)
    for update skip locked
  loop
    begin
      perform public.webhook_publish_tx(
        v_failure.event_type, v_failure.user_id, v_failure.data, v_failure.agent_id,
        v_failure.conversation_id, v_failure.labels, v_failure.message_id,
        v_failure.dedup_key, v_failure.event_id
      );
      delete from webhookpub.publish_failures as f where f.id = v_failure.id;
      v_count := v_count + 1;
    exception when others then
      get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text;
      update webhookpub.publish_failures as f
      set sqlstate = v_sqlstate, message = v_message, tried_at = clock_timestamp()
      where f.id = v_failure.id;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.retry_publish_failures (integer) is
  'Publishes up to p_limit of webhookpub.publish_failures; what still fails stays, with its new error. Returns how many were published.';
--! EndIncluded 8_steer/retry_publish_failures.sql

revoke execute on function webhookpub.find_webhook (text, boolean) from public;
revoke execute on function webhookpub.find_event (text) from public;
revoke execute on function webhookpub.redeliver (text, text) from public;
revoke execute on function
  webhookpub.redeliver_since (text, timestamptz, timestamptz, boolean, boolean) from public;
revoke execute on function webhookpub.test_webhook (text, text) from public;
revoke execute on function webhookpub.retry_publish_failures (integer) from public;

select webhookpub.install_roles();
