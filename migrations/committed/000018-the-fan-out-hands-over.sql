--! Previous: sha1:ea9acbbe4e4a135707a3d7952041ebb191478828
--! Hash: sha1:fccf6c6b0e4cbe94b15b307850b9eeaaf332e3e6
--! Message: the fan-out hands over

-- A worker delivers at once what it has fanned out, with no job between.

--! Included 2_fan_out/fan_out_events.sql
-- Fans a batch out, in one statement: matches its events, inserts their first deliveries,
-- moves their bytes to where they are kept, and marks them processed or no_match.
--
-- Called by  webhookpub.fan_out_batch, public.webhook_publish.
-- Locks      the events, which the caller has locked; a delivery that is there already is
--            left alone.
-- Returns    how many deliveries are new, and the webhooks that they are for.

create or replace function webhookpub.fan_out_events (
  p_events webhookpub.events[],
  out delivery_count bigint,
  out webhook_ids text[]
)
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  with event_type as materialized (
    select t.name, webhookpub.type_patterns(t.name) as patterns
    from (select distinct e.type as name from unnest(p_events) as e) as t
  ),
  matched as materialized (
    select
      e.id as event_id,
      e.type as event_type,
      e.message_id,
      e.created_at as event_created_at,
      w.id as webhook_id,
      cardinality(w.retry_schedule) + 1 as max_attempts
    from unnest(p_events) as e
    join event_type as t on t.name = e.type
    join webhookpub.webhooks as w on w.user_id = e.user_id
    where webhookpub.unmatched_clause(
      w,
      e,
      t.patterns,
      -- Parsed only for webhooks that filter by it.
      case when w.filter_data is not null
        then coalesce(e.envelope, webhookpub.stored_envelope(e.id, e.created_at))::jsonb -> 'data'
      end
    ) is null
  ),
  -- Random bytes are dear: one id is made for the batch, and a number in its midst tells its
  -- deliveries apart. They then go to the right edge of the index one after the other.
  batch as materialized (
    select c.at, left(i.id, 16) as prefix, right(i.id, 14) as suffix
    from (select clock_timestamp() as at) as c
    cross join lateral (select webhookpub.delivery_id(c.at) as id offset 0) as i
  ),
  created as (
    insert into webhookpub.deliveries as d
      (id, webhook_id, event_id, event_type, event_created_at, message_id, max_attempts,
       next_attempt_at, created_at, expires_at)
    select
      b.prefix || lpad(to_hex(row_number() over ()), 6, '0') || b.suffix,
      m.webhook_id, m.event_id, m.event_type, m.event_created_at, m.message_id,
      m.max_attempts, b.at, b.at, b.at + s.delivery_retention
    from matched as m
    cross join webhookpub.settings as s
    cross join batch as b
    on conflict (event_id, webhook_id) where replay_id is null do nothing
    returning d.webhook_id
  ),
  moved as (
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select p.id, p.created_at, p.user_id, p.envelope
    from unnest(p_events) as p
    where p.envelope is not null
  ),
  marked as (
    update webhookpub.events as e
    set
      status = (
        case when m.event_id is null then 'no_match' else 'processed' end
      )::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.webhook_ids, '{}'),
      envelope = null,
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from unnest(p_events) as p
    left join (
      select g.event_id, array_agg(g.webhook_id order by g.webhook_id) as webhook_ids
      from matched as g
      group by g.event_id
    ) as m on m.event_id = p.id
    where e.id = p.id
  )
  select count(*), array_agg(distinct c.webhook_id)
  from created as c;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[]) is
  'Matches events against their users'' webhooks, inserts the first deliveries and marks the events processed or no_match.';
--! EndIncluded 2_fan_out/fan_out_events.sql
--! Included 2_fan_out/fan_out_batch.sql
-- Turns pending events into deliveries, for a worker that goes on to deliver them itself.
--
-- Called by  an awake fan-out; webhookpub.fan_out.
-- Locks      the events it takes, skipping those that another fan-out has.
-- Returns    how many events were fanned out, how many deliveries that made, and the
--            webhooks that they are for, each with its user.
--
-- It adds no jobs: those take longer than all the rest, and whoever called is quicker. What
-- it does not come to gets a job by the next look at what is due (webhookpub.wake).
--
-- A batch is all or nothing. If it fails, its events go one by one; a culprit keeps its
-- error and waits, longer each time, while the others go on. It is never given up.

create or replace function webhookpub.fan_out_batch (
  p_limit integer default 500,
  out event_count integer,
  out delivery_count integer,
  out webhook_ids text[],
  out user_ids text[]
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
      webhook_ids := v_done.webhook_ids;
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
        webhook_ids := webhook_ids || v_done.webhook_ids;
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
  -- Whose they are, so that a worker can share fairly.
  if webhook_ids is not null then
    select array_agg(w.id), array_agg(w.user_id) into webhook_ids, user_ids
    from webhookpub.webhooks as w
    where w.id = any (webhook_ids);
  end if;
end;
$$;

comment on function webhookpub.fan_out_batch (integer) is
  'Turns up to p_limit pending events into deliveries, without jobs; returns how many of each, and for which webhooks of which users.';
--! EndIncluded 2_fan_out/fan_out_batch.sql
revoke execute on function webhookpub.fan_out_batch (integer) from public;
--! Included 2_fan_out/fan_out.sql
-- One tick: turns pending events into deliveries, and adds a job for each webhook with work.
--
-- Called by  psql, or whoever has no worker at hand that would deliver them.
-- Locks      the events it takes, skipping those that another fan-out has.
-- Returns    how many events were fanned out, and how many deliveries that made.

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
as $$
declare
  v_webhook_ids text[];
begin
  select b.event_count, b.delivery_count, b.webhook_ids
  into event_count, delivery_count, v_webhook_ids
  from webhookpub.fan_out_batch(p_limit) as b;
  if v_webhook_ids is not null then
    perform webhookpub.add_deliver_jobs(v_webhook_ids);
  end if;
  return next;
end;
$$;

comment on function webhookpub.fan_out (integer) is
  'Turns up to p_limit pending events into deliveries; returns how many of each. Safe to run any number of times at once.';
--! EndIncluded 2_fan_out/fan_out.sql
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
    webhookpub.fan_out_batch, webhookpub.lease_deliveries, webhookpub.record_attempts,
    webhookpub.maintain
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
select webhookpub.install_roles();
