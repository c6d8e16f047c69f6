--! Previous: sha1:dffa57431e697eabf2127f07876fe8bce2cf91f0
--! Hash: sha1:ee85188dccbe1e0465714b90f88f816c58a397ce
--! Message: users take turns at fan-out

-- Pending events of several users are fanned out in turn, in batches that are bounded by what
-- they may become.

--! Included 2_fan_out/next_events.sql
-- Picks the pending events that a batch takes, and locks them: the oldest, and while there are
-- more of them than that, up to a half of what is new of users who have none among them. So
-- one user's burst does not make another's event wait until all of it has been fanned out.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    them, or null.
--
-- A batch is bounded by what it may become, too: each event counts for all webhooks of its
-- user. Users take turns until that is used up; one event is always taken.

create or replace function webhookpub.next_events (
  p_limit integer,
  out events webhookpub.events[]
)
  language plpgsql
  volatile
  -- By index, and few, whatever stale statistics say.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_most constant integer := 10000;
begin
  select array_agg(o.event) into events
  from (
    select e as event
    from webhookpub.events as e
    where e.status = 'pending' and (e.retry_at is null or e.retry_at <= v_now)
    order by e.expires_at
    limit greatest(p_limit, 0)
    for update skip locked
  ) as o;
  if events is null or cardinality(events) = 1 then
    return;
  end if;

  if cardinality(events) = p_limit then
    select (array_agg(o.event) || events)[: p_limit] into events
    from (
      select l.event
      from (
        select e.id, e.user_id
        from webhookpub.events as e
        where e.status = 'pending' and (e.retry_at is null or e.retry_at <= v_now)
        order by e.expires_at desc
        limit p_limit
      ) as n
      -- One by one; "offset 0" keeps the planner from joining, "is true" from the index by
      -- status.
      cross join lateral (
        select e as event
        from webhookpub.events as e
        where e.id = n.id
          and (e.status = 'pending' and (e.retry_at is null or e.retry_at <= v_now)) is true
        for update skip locked
        offset 0
      ) as l
      where n.user_id not in (select e.user_id from unnest(events) as e)
      limit p_limit / 2
    ) as o;
  end if;

  if v_most < (
    select sum(u.count * (
      select count(*) from webhookpub.webhooks as w where w.user_id = u.user_id
    ))
    from (select e.user_id, count(*) from unnest(events) as e group by e.user_id) as u
  ) then
    select array_agg(c.event) into events
    from (
      select
        t.event,
        sum(t.webhooks) over (order by t.turn, t.expires_at, t.id) as so_far,
        row_number() over (order by t.turn, t.expires_at, t.id) as n
      from (
        select
          e as event, e.id, e.expires_at, u.webhooks,
          row_number() over (partition by e.user_id order by e.expires_at, e.id) as turn
        from unnest(events) as e
        join (
          select u.user_id, (
            select count(*) from webhookpub.webhooks as w where w.user_id = u.user_id
          ) as webhooks
          from (select distinct e.user_id from unnest(events) as e) as u
          offset 0 -- Counted once a user.
        ) as u on u.user_id = e.user_id
      ) as t
    ) as c
    where c.so_far <= v_most or c.n = 1;
  end if;
end;
$$;

comment on function webhookpub.next_events (integer) is
  'Locks up to p_limit pending events: the oldest, and some that are new of other users; not more than may become 10,000 deliveries. Returns them.';
--! EndIncluded 2_fan_out/next_events.sql
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
    v_events := webhookpub.next_events(p_limit);
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
--! Included 2_fan_out/fan_out_events.sql
-- Fans a batch out, in one statement: matches its events, inserts their first deliveries,
-- moves their bytes to where they are kept, and marks them processed or no_match.
--
-- Called by  webhookpub.fan_out_batch, public.webhook_publish.
-- Locks      the events, which the caller has locked; a delivery that is there already is
--            left alone.
-- Returns    how many deliveries are new, and the webhooks that they are for.
--
-- A few events go by a plan that is kept, for planning takes longer than the rest; many are
-- worth a plan for their number.

create or replace function webhookpub.fan_out_events (
  p_events webhookpub.events[],
  out delivery_count bigint,
  out webhook_ids text[]
)
  language plpgsql
  volatile
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
begin
  if cardinality(p_events) <= 20 then
    perform pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true);
  end if;
  with event_type as materialized (
    select t.name, webhookpub.type_patterns(t.name) as patterns
    from (select distinct e.type as name from unnest(p_events) as e) as t
  ),
  -- At least one row for each event; without a webhook if none matches.
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
    left join webhookpub.webhooks as w
      on w.user_id = e.user_id
      and webhookpub.unmatched_clause(
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
    select
      c.at, left(i.id, 16) as prefix, right(i.id, 14) as suffix,
      c.at + (select s.delivery_retention from webhookpub.settings as s) as expires_at
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
      m.max_attempts, b.at, b.at, b.expires_at
    from matched as m
    cross join batch as b
    where m.webhook_id is not null
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
        case when m.webhook_ids is null then 'no_match' else 'processed' end
      )::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.webhook_ids, '{}'),
      envelope = null,
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from (
      select
        g.event_id,
        array_agg(g.webhook_id order by g.webhook_id)
          filter (where g.webhook_id is not null) as webhook_ids
      from matched as g
      group by g.event_id
    ) as m
    where e.id = m.event_id
  )
  select count(*), array_agg(distinct c.webhook_id)
  into delivery_count, webhook_ids
  from created as c;
end;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[]) is
  'Matches events against their users'' webhooks, inserts the first deliveries and marks the events processed or no_match.';
--! EndIncluded 2_fan_out/fan_out_events.sql

revoke execute on function webhookpub.next_events (integer) from public;
