-- Picks the pending events that a batch takes, and locks them. While more wait than a batch has
-- room for, users take turns: each gets one in before anybody gets a second. What is heavy goes
-- into its own lane, where it holds up nobody: it is not met here again. None overtakes an earlier
-- one with the same ordering key.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    them, or null.

create or replace function webhookpub.next_events (
  p_limit integer,
  out events webhookpub.events[]
)
  language plpgsql
  volatile
  -- By index, and few, whatever stale statistics say.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_at tid[];
begin
  -- Where they are: with the rows, PostgreSQL would read all their bytes.
  select array_agg(p.at) into v_at
  from (
    select u.at
    from (
      select e.ctid as at
      from webhookpub.events as e
      where e.status = 'pending'
        and e.pending_user_id >= chr(2)
        and (e.retry_at is null or e.retry_at <= v_now)
      order by e.status, e.pending_user_id, e.expires_at
      limit p_limit
      for update skip locked
    ) as u
    union all
    -- Those that somebody has set back to pending.
    select n.at
    from (
      select e.ctid as at
      from webhookpub.events as e
      where e.status = 'pending' and e.pending_user_id is null
      order by e.status, e.pending_user_id, e.expires_at
      limit p_limit
      for update skip locked
    ) as n
    limit greatest(p_limit, 0)
  ) as p;
  if v_at is not null then
    if cardinality(v_at) > 1 and cardinality(v_at) = p_limit then
      v_at := v_at || webhookpub.events_by_turn(p_limit, v_now);
    end if;
    v_at := webhookpub.fit_batch(v_at, p_limit);
    select array_agg(l.event) into events
    from unnest(v_at) as a (at)
    -- One by one; "offset 0" keeps the planner from joining.
    cross join lateral (
      select e as event from webhookpub.events as e where e.ctid = a.at offset 0
    ) as l;
    if exists (select from unnest(events) as e where e.ordering_key is not null) then
      events := webhookpub.keep_order(events);
    end if;
  end if;
end;
$$;

comment on function webhookpub.next_events (integer) is
  'Locks and returns up to p_limit pending events, of all users in turn, and not more than one statement can do in a moment.';
