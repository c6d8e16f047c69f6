--! Previous: sha1:a7ac9aea13f06f91dfb91be9eb6adfc5a690da38
--! Hash: sha1:63a494045f1e57baaa0b302963290ac36eaa21b3
--! Message: bad input

--! Included 1_publish/event_id.sql
-- Derives an event id from what identifies the event: the same parts, the same id.
--
-- Called by  public.webhook_publish_tx, and applications that want to know an id ahead.
-- Raises     WH001 when there are no parts or one is null.

create or replace function webhookpub.event_id (
  variadic parts text[]
)
  returns text
  language plpgsql
  immutable
  parallel safe
as $$
begin
  if (case
    when pg_catalog.array_ndims(parts) = 1 then pg_catalog.array_position(parts, null) is null
  end) then
    return 'evt_' || pg_catalog.left(
      pg_catalog.encode(
        pg_catalog.sha256(
          pg_catalog.convert_to(pg_catalog.array_to_string(parts, '|'), 'UTF8')
        ),
        'hex'
      ),
      32
    );
  end if;
  raise exception using
    errcode = 'WH001',
    message = pg_catalog.format(
      'event id parts %s: a flat list of at least one is needed, and none may be null',
      coalesce(pg_catalog.quote_literal(pg_catalog.left(parts::text, 200)), 'null')
    ),
    hint = 'Leave out parts that are unknown, or use webhookpub.random_event_id().';
end;
$$;

comment on function webhookpub.event_id (text[]) is
  'evt_ and the first 32 hex digits of SHA-256 over the parts joined by |. Raises WH001.';
--! EndIncluded 1_publish/event_id.sql
--! Included 2_fan_out/fan_out.sql
-- One tick: turns pending events into deliveries.
--
-- Called by  the task webhook_fan_out; psql.
-- Locks      the events it takes, skipping those that another fan-out has.
-- Returns    how many events were fanned out, and how many deliveries that made.
--
-- A batch is all or nothing. If it fails, its events go one by one; a culprit keeps its
-- error and waits, longer each time, while the others go on. It is never given up.

create or replace function webhookpub.fan_out (
  p_limit integer default 500
)
  returns table (
    event_count integer,
    delivery_count integer
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- The pending ones, in order, by their index, whatever stale statistics say.
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_events webhookpub.events[];
  v_event webhookpub.events;
  v_done record;
begin
  event_count := 0;
  delivery_count := 0;

  begin
    -- Locked and written in one subtransaction: two would leave both of them in the row,
    -- and the index could not forget such a row until the next vacuum.
    select array_agg(p.event) into v_events
    from (
      select e as event
      from webhookpub.events as e
      where e.status = 'pending'
        and (e.retry_at is null or e.retry_at <= clock_timestamp())
      order by e.expires_at
      limit greatest(p_limit, 0)
      for update skip locked
    ) as p;
    if v_events is not null then
      v_done := webhookpub.fan_out_events(v_events);
      perform webhookpub.add_deliver_jobs(v_done.webhook_ids);
      event_count := cardinality(v_events);
      delivery_count := v_done.delivery_count;
    end if;
  exception when others then
    if v_events is null then
      raise; -- No event's fault: none was taken.
    end if;
    foreach v_event in array v_events loop
      begin
        select array_agg(p.event) into v_events
        from (
          select e as event
          from webhookpub.events as e
          where e.id = v_event.id and e.status = 'pending'
          for update skip locked
        ) as p;
        continue when v_events is null;
        v_done := webhookpub.fan_out_events(v_events);
        perform webhookpub.add_deliver_jobs(v_done.webhook_ids);
        event_count := event_count + 1;
        delivery_count := delivery_count + v_done.delivery_count;
      exception when others then
        update webhookpub.events as e
        set
          attempts = e.attempts + 1,
          last_error = format('%s (%s)', sqlerrm, sqlstate),
          retry_at = clock_timestamp()
            + least(interval '1 second' * 2 ^ least(e.attempts, 20), interval '1 hour')
        where e.id = v_event.id and e.status = 'pending';
      end;
    end loop;
  end;
  return next;
end;
$$;

comment on function webhookpub.fan_out (integer) is
  'Turns up to p_limit pending events into deliveries; returns how many of each. Safe to run any number of times at once.';
--! EndIncluded 2_fan_out/fan_out.sql
--! Included 5_retry/wake.sql
-- The tick: makes sure that whatever is due has a job.
--
-- Called by  the wake-up plugin of every worker, once a second and on a NOTIFY, for
--            the last seconds only; webhookpub.maintain, over all time.
-- Locks      none that anybody waits for.

create or replace function webhookpub.wake (
  p_window interval default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_oldest timestamptz;
begin
  select e.created_at into v_oldest
  from webhookpub.events as e
  where e.status = 'pending' and (e.retry_at is null or e.retry_at <= v_now)
  order by e.expires_at
  limit 1;
  -- An awake fan-out finds it by itself, unless its process has been stopped.
  if v_oldest is not null
    and (v_oldest < v_now - interval '2 seconds' or webhookpub.fan_out_is_asleep())
  then
    perform graphile_worker.add_job(
      'webhook_fan_out', job_key => 'webhook_fan_out', priority => -1
    );
  end if;
  perform webhookpub.wake_deliveries(
    case when p_window < '100 years' then v_now - greatest(p_window, '0') else '-infinity' end
  );
end;
$$;

comment on function webhookpub.wake (interval) is
  'Adds the jobs that are missing: a fan-out for pending events, a delivery for each webhook with something that became due within the window (null: ever).';
--! EndIncluded 5_retry/wake.sql
--! Included 7_inspect/explain_event.sql
-- Says for every webhook of an event's user whether it matches, and if not, why.
--
-- Called by  psql, as whoever asks: an event that its caller may not see is not there.
-- Returns    one row a webhook, in the order of their creation. Once fan-out has decided,
--            matched is its decision; if the webhook has changed since, reason says so.
-- Raises     WH020.

create or replace function webhookpub.explain_event (
  event_id text
)
  returns table (
    webhook_id text,
    matched boolean,
    reason text
  )
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_event webhookpub.events;
  v_data jsonb;
begin
  select e.* into v_event from webhookpub.events as e where e.id = explain_event.event_id;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format(
        'no such event: %s', coalesce(quote_literal(left(explain_event.event_id, 210)), 'null')
      ),
      hint = 'Events are kept for settings.event_retention.';
  end if;
  v_data := coalesce(
    v_event.envelope, webhookpub.stored_envelope(v_event.id, v_event.created_at)
  )::jsonb -> 'data';

  return query
  select
    w.id,
    case v_event.status
      when 'pending' then u.clause is null
      else w.id = any (v_event.matched_webhook_ids)
    end,
    case
      when v_event.status = 'pending' or (u.clause is null) = (w.id = any (v_event.matched_webhook_ids))
        then coalesce(u.clause, 'every clause holds')
      when u.clause is null
        then 'every clause holds now; the webhook is newer than the decision, or has changed'
      else 'matched when it was fanned out; now ' || u.clause
    end
  from webhookpub.webhooks as w
  cross join lateral (
    select webhookpub.unmatched_clause(
      w, v_event, webhookpub.type_patterns(v_event.type), v_data
    )
  ) as u (clause)
  where w.user_id = v_event.user_id
  order by w.created_at, w.id;
end;
$$;

comment on function webhookpub.explain_event (text) is
  'For each webhook of the event''s user: whether it matches and which clause decided. Raises WH020.';
--! EndIncluded 7_inspect/explain_event.sql
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
  v_first_id constant text := left(
    webhookpub.delivery_id(least(greatest(p_since, 'epoch'), v_now)), 16
  );
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
