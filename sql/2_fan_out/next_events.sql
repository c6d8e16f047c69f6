-- Picks the pending events that a batch takes, and locks them. While more wait than a batch has
-- room for, users take turns: each gets one in before anybody gets a second.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    them, or null.
--
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
  v_at tid[];
begin
  -- Where they are: with the rows, PostgreSQL would read all their bytes.
  select array_agg(p.at) into v_at
  from (
    select e.ctid as at
    from webhookpub.events as e
    where e.status = 'pending' and (e.retry_at is null or e.retry_at <= v_now)
    order by e.status, e.pending_user_id, e.expires_at
    limit greatest(p_limit, 0)
    for update skip locked
  ) as p;
  if cardinality(v_at) > 1 then
    if cardinality(v_at) = p_limit then
      v_at := v_at || webhookpub.events_by_turn(p_limit, v_now);
    end if;
    v_at := webhookpub.fit_batch(v_at, p_limit);
  end if;
  if v_at is not null then
    select array_agg(l.event) into events
    from unnest(v_at) as a (at)
    -- One by one; "offset 0" keeps the planner from joining.
    cross join lateral (
      select e as event from webhookpub.events as e where e.ctid = a.at offset 0
    ) as l;
  end if;
end;
$$;

comment on function webhookpub.next_events (integer) is
  'Locks and returns up to p_limit pending events, of all users in turn, and not more than one statement can do in a moment.';
