--! Previous: sha1:e85474e756ce6dc2cc40f6b2d650609ff960ea7b
--! Hash: sha1:bdce02e7304d3d80e6e519c277753d0d03bc8591
--! Message: one sweep in steps

-- All workers together do one sweep, in bounded steps.

create table webhookpub.sweep (
  one_row boolean primary key default true,
  position text not null default '',
  next_at timestamptz not null default '-infinity',
  constraint sweep_has_one_row check (one_row)
);
comment on table webhookpub.sweep is
  'Where the sweep is that looks at all that is due (sweep_webhooks): one row.';
comment on column webhookpub.sweep.one_row is 'Always true: it holds the table to one row.';
comment on column webhookpub.sweep.position is 'The last webhook that it has come to.';
comment on column webhookpub.sweep.next_at is 'When it goes on.';
alter table webhookpub.sweep enable row level security;
insert into webhookpub.sweep default values;

--! Included 5_retry/sweep_webhooks.sql
-- Picks the webhooks that the sweep comes to next: all those with pending deliveries, in the
-- order of their ids, so many at a time, whatever has crowded them out of what ticks look at.
--
-- Called by  webhookpub.wake_deliveries.
-- Locks      where the sweep is; a second one does nothing meanwhile. So all workers
--            together do one sweep.
-- Returns    them, or null. When it has come to the end it begins again 20 s later, and until
--            then it goes on four times a second; with p_at_once it does not wait.

create or replace function webhookpub.sweep_webhooks (
  p_at_once boolean,
  p_now timestamptz,
  p_limit integer default 2000
)
  returns text[]
  language plpgsql
  volatile
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_position text;
  v_webhook_ids text[];
begin
  select s.position into v_position
  from webhookpub.sweep as s
  -- Also if the clock was set back.
  where p_at_once or s.next_at not between p_now and p_now + interval '20 seconds'
  for update skip locked;
  if not found then
    return null;
  end if;
  -- From one webhook with pending deliveries to the next, by one look into the index.
  with recursive pending as (
    select min(d.webhook_id) as webhook_id, 1 as n
    from webhookpub.deliveries as d
    where d.status = 'pending' and d.webhook_id > v_position
    union all
    select
      (
        select min(d.webhook_id)
        from webhookpub.deliveries as d
        where d.status = 'pending' and d.webhook_id > p.webhook_id
      ),
      p.n + 1
    from pending as p
    where p.webhook_id is not null and p.n < p_limit
  )
  select array_agg(p.webhook_id), max(p.webhook_id) filter (where p.n = p_limit)
  into v_webhook_ids, v_position
  from pending as p
  where p.webhook_id is not null;
  update webhookpub.sweep as s
  set
    position = coalesce(v_position, ''),
    next_at = p_now
      + case when v_position is null then interval '20 seconds' else interval '250 milliseconds' end;
  return v_webhook_ids;
end;
$$;

comment on function webhookpub.sweep_webhooks (boolean, timestamptz, integer) is
  'The next webhooks with pending deliveries that the sweep looks at, or null: it comes to all of them, p_limit at a time, and begins again 20 s later.';
--! EndIncluded 5_retry/sweep_webhooks.sql
revoke execute on function webhookpub.sweep_webhooks (boolean, timestamptz, integer) from public;
--! Included 5_retry/wake_deliveries.sql
-- Finds webhooks with due deliveries and room for a request, and wakes a worker: due
-- retries, expired leases, lost jobs and probes of open circuits are one and the same here.
--
-- Called by  webhookpub.wake.
-- Returns    how many webhooks were woken.
--
-- A tick looks at what became due last, and at no more of it than it can read in passing:
-- what it does not come to is found by the sweep, which looks at everything.

create or replace function webhookpub.wake_deliveries (
  p_since timestamptz
)
  returns bigint
  language plpgsql
  volatile
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_webhook_ids text[];
begin
  select array_agg(distinct d.webhook_id) into v_webhook_ids
  from (
    select d.webhook_id
    from webhookpub.deliveries as d
    where d.status = 'pending' and d.attempts >= 0
      and d.next_attempt_at between p_since and v_now
    order by d.next_attempt_at desc
    limit 1000
  ) as d;
  -- What became due before a circuit's pause was over is older than that.
  select v_webhook_ids || array_agg(w.id) into v_webhook_ids
  from webhookpub.webhooks as w
  where w.circuit_retry_at <= v_now;
  -- And so is what was lost and waits to be tried.
  select v_webhook_ids || s.webhook_ids into v_webhook_ids
  from webhookpub.due_suspects(null, v_now) as s;
  v_webhook_ids := v_webhook_ids || webhookpub.sweep_webhooks(p_since = '-infinity', v_now);

  select array_agg(w.id) into v_webhook_ids
  from (select distinct i.id from unnest(v_webhook_ids) as i (id)) as p
  -- One by one, by one look into each index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select w.id
    from webhookpub.webhooks as w
    where w.id = p.id and w.enabled
      -- Its job waits already, which is all that most need while there is much to do; or a worker
      -- has just taken it, and will look.
      and not exists (
        select
        from graphile_worker.jobs as j
        where j.key = w.id
          and (
            j.locked_at > v_now - interval '2 seconds'
            or (
              j.locked_at is null
              and j.attempts < j.max_attempts
              and j.run_at <= v_now
              and j.updated_at < v_now - interval '100 milliseconds'
            )
          )
      )
      and exists (
        select from webhookpub.secrets as k where k.webhook_id = w.id and k.expires_at is null
      )
      and exists (
        select
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and d.leased in (true, false)
          and d.next_attempt_at <= v_now
      )
      -- One that has as many requests under way as it may is left alone: with the next answer
      -- its worker comes back for more.
      and webhookpub.requests_allowed(w, v_now) > (
        select count(*)
        from webhookpub.deliveries as b
        where b.webhook_id = w.id and b.status = 'pending' and b.leased
          and b.next_attempt_at > v_now
      )
    offset 0
  ) as w;
  if v_webhook_ids is null then
    return 0;
  end if;
  perform webhookpub.add_deliver_jobs(v_webhook_ids);
  return cardinality(v_webhook_ids);
end;
$$;

comment on function webhookpub.wake_deliveries (timestamptz) is
  'Adds jobs for webhooks whose deliveries became due since then and that have room for a request.';
--! EndIncluded 5_retry/wake_deliveries.sql
--! Included 5_retry/wake.sql
-- The tick: makes sure that whatever is due has a job.
--
-- Called by  every worker, once a second and by an awake fan-out every 50 ms, for the last
--            seconds only, and when it starts; webhookpub.maintain.
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
  perform webhookpub.park_lost(v_now);
  perform webhookpub.wake_deliveries(
    case when p_window < '100 years' then v_now - greatest(p_window, '0') else '-infinity' end
  );
end;
$$;

comment on function webhookpub.wake (interval) is
  'Adds the jobs that are missing: a fan-out for pending events, a delivery for each webhook with something that became due within the window (null: ever; then the sweep goes on at once).';
--! EndIncluded 5_retry/wake.sql
--! Included 2_fan_out/add_deliver_jobs.sql
-- Makes sure that each of these webhooks has a job that will look for its due deliveries.
--
-- Called by  webhookpub.fan_out, webhookpub.wake_deliveries, and steering functions.
-- Locks      the right to add jobs of these webhooks, until the transaction ends; then
--            their job rows, those that are there and those that are new. Skips whatever
--            somebody else holds of it.
--
-- A job that has been waiting for a while goes on waiting: workers are busy, and it will
-- find what is new. Without that each batch would rewrite the jobs of all webhooks, and
-- each look at a key would wade through the versions of before. A job of this instant is
-- renewed: else a worker could take it before what it is for has been committed. If one
-- takes an old one just now, the next tick, a second later, adds another; only what was
-- committed more than 30 s after it became due waits for the sweep.
--
-- A job that somebody holds is being taken or completed, many at once and in no order, or is
-- being added, beside jobs that were there. To wait for it could end in a deadlock, which no
-- worker outlives: it gets another beside it.

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
    select
      i.id,
      json_build_object('webhook_id', i.id, 'user_id', (
        -- Whose it is, so that a worker can share fairly.
        select w.user_id from webhookpub.webhooks as w where w.id = i.id
      )) as payload
    from (select distinct p.id from unnest(p_webhook_ids) as p (id)) as i
    where not exists (
      select
      from graphile_worker.jobs as j
      where j.key = i.id
        and j.locked_at is null
        and j.attempts < j.max_attempts
        and j.run_at <= clock_timestamp()
        and j.updated_at < clock_timestamp() - interval '100 milliseconds'
    )
  ),
  own as materialized (
    select w.id, w.payload
    from wanted as w
    -- Few locks, however many webhooks.
    where pg_try_advisory_xact_lock(2003006837, hashtext(w.id) & 255)
  ),
  ours as materialized (
    select j.key
    from graphile_worker._private_jobs as j
    where j.key = any (array(select w.id from own as w))
    for update skip locked
  ),
  free as materialized (
    select w.id, w.payload
    from own as w
    where w.id in (select o.key from ours as o)
      or not exists (select from graphile_worker.jobs as j where j.key = w.id)
  ),
  added as materialized (
    select j.key
    from graphile_worker.add_jobs(array(
      select row('webhook_deliver', f.payload, null, null, null, f.id, null, null)
        ::graphile_worker.job_spec
      from free as f
      order by f.id
    )) as j
    where exists (select from free)
  ),
  -- add_jobs, too, leaves out a key whose job was taken in that very instant.
  missed as (
    select w.payload from wanted as w where w.id not in (select a.key from added as a)
  )
  select count(*)
  from missed as m
  cross join lateral graphile_worker.add_job('webhook_deliver', m.payload) as j;
$$;

comment on function webhookpub.add_deliver_jobs (text[]) is
  'Adds a webhook_deliver job for each of these webhooks, unless one waits already.';
--! EndIncluded 2_fan_out/add_deliver_jobs.sql
