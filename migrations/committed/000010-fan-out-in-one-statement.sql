--! Previous: sha1:0ed2d8a56e49fcc5018ae25daac3f5ce07121dcc
--! Hash: sha1:7914576f71de74b830a5b1801466abc16b781f53
--! Message: fan-out in one statement

-- One statement fans a batch out. Its events are locked and written by the same
-- subtransaction, jobs that wait already are not rewritten, and ids take random bytes once a
-- batch.

drop function webhookpub.mark_fanned_out (webhookpub.events[]);
drop function webhookpub.fan_out_events (webhookpub.events[]);
--! Included 2_fan_out/delivery_id.sql
-- Makes the id of a delivery: time first, so that ids are in the order of creation.
--
-- Called by  webhookpub.fan_out_events, once a batch; steering functions, for each.
-- Returns    whd_, 12 hex digits of Unix milliseconds, 20 random ones.
--
-- The primary key is then the newest-first order that people ask for, and its inserts go
-- to the index's right edge, however large the table is.

create or replace function webhookpub.delivery_id (
  p_now timestamptz
)
  returns text
  language sql
  volatile
  parallel safe
return 'whd_'
  || lpad(to_hex((extract(epoch from p_now) * 1000)::bigint), 12, '0')
  || left(webhookpub.random_hex(), 20);

comment on function webhookpub.delivery_id (timestamptz) is
  'whd_ and 32 hex digits: the time in milliseconds, then random ones.';
--! EndIncluded 2_fan_out/delivery_id.sql
--! Included 2_fan_out/fan_out_events.sql
-- Fans a batch out, in one statement: matches its events, inserts their first deliveries,
-- moves their bytes to where they are kept, and marks them processed or no_match.
--
-- Called by  webhookpub.fan_out, public.webhook_publish.
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
      limit p_limit
      for update skip locked
    ) as p;
    if v_events is not null then
      v_done := webhookpub.fan_out_events(v_events);
      perform webhookpub.add_deliver_jobs(v_done.webhook_ids);
      event_count := cardinality(v_events);
      delivery_count := v_done.delivery_count;
    end if;
  exception when others then
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
--! Included 2_fan_out/add_deliver_jobs.sql
-- Makes sure that each of these webhooks has a job that will look for its due deliveries.
--
-- Called by  webhookpub.fan_out, webhookpub.wake_deliveries, and steering functions.
-- Locks      the webhooks' job rows, in the order of their ids.
--
-- A job that has been waiting for a while goes on waiting: workers are busy, and it will
-- find what is new. Without that each batch would rewrite the jobs of all webhooks, and
-- each look at a key would wade through the versions of before. A job of this instant is
-- renewed: else a worker could take it before what it is for has been committed. If one
-- takes an old one just now, the next look for what is due, at most a second later, adds
-- another.

create or replace function webhookpub.add_deliver_jobs (
  p_webhook_ids text[]
)
  returns void
  language sql
  volatile
  -- Keys are looked up one by one, whatever stale statistics say.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  with wanted as materialized (
    select distinct w.id
    from unnest(p_webhook_ids) as w (id)
    where not exists (
      select
      from graphile_worker.jobs as j
      where j.key = w.id
        and j.locked_at is null
        and j.attempts < j.max_attempts
        and j.run_at <= clock_timestamp()
        and j.updated_at < clock_timestamp() - interval '100 milliseconds'
    )
  ),
  added as materialized (
    select j.key
    from graphile_worker.add_jobs(array(
      select row(
        'webhook_deliver', json_build_object('webhook_id', w.id), null, null, null, w.id,
        null, null
      )::graphile_worker.job_spec
      from wanted as w
      order by w.id
    )) as j
    where exists (select from wanted)
  ),
  -- add_jobs leaves out a key whose job was locked in that very instant.
  missed as (
    select w.id from wanted as w where w.id not in (select a.key from added as a)
  )
  select count(*)
  from missed as m
  cross join lateral graphile_worker.add_job(
    'webhook_deliver', json_build_object('webhook_id', m.id)
  ) as j;
$$;

comment on function webhookpub.add_deliver_jobs (text[]) is
  'Adds a webhook_deliver job for each of these webhooks, unless one waits already.';
--! EndIncluded 2_fan_out/add_deliver_jobs.sql
--! Included 1_publish/webhook_publish.sql
-- Publishes on the direct path: matches and inserts the deliveries at once, and leaves no
-- event row.
--
-- Called by  applications that want no trace of events which nobody listens to.
-- Locks      the id, if it is not random: only who publishes the very same id waits.
-- Returns    the event id; null when publishing is off or failed (a WARNING says why).

create or replace function public.webhook_publish (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_at constant timestamptz := clock_timestamp();
  v_id text;
  v_event webhookpub.events;
  v_count bigint;
begin
  if coalesce(event_id, message_id, dedup_key) is not null then
    -- With no event row, nothing else keeps two of one id apart.
    perform pg_advisory_xact_lock(2003006836, hashtext(
      coalesce(event_id, concat_ws('|', message_id, event_type, dedup_key))
    ));
  end if;
  v_id := public.webhook_publish_tx(
    event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
    event_id
  );
  -- Only what is new: an id that was there already has been published.
  select e.* into v_event
  from webhookpub.events as e
  where e.id = v_id and e.status = 'pending' and e.created_at >= v_at;
  if found then
    v_count := (webhookpub.fan_out_events(array[v_event])).delivery_count;
    delete from webhookpub.events as e where e.id = v_id;
    if v_count = 0 then
      delete from webhookpub.envelopes as n
      where n.event_id = v_id and n.created_at = v_event.created_at;
    end if;
  end if;
  return v_id;
exception when others then
  raise warning 'webhook event % of user % is dropped: % (%)',
    event_type, user_id, sqlerrm, sqlstate;
  return null;
end;
$$;

comment on function public.webhook_publish
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Matches and queues the deliveries at once, without an event row. Never raises: an error is a WARNING and the event is dropped.';
--! EndIncluded 1_publish/webhook_publish.sql

revoke execute on function webhookpub.fan_out_events (webhookpub.events[]) from public;
