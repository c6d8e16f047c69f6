-- Picks the pending events that a batch takes, and locks them: the oldest, and while there are
-- more of them than that, up to a half of what is new of users who have none among them. So
-- one user's burst does not make another's event wait until all of it has been fanned out.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    them, or null.
--
-- A batch is bounded by what it may become, too: each event counts for all webhooks of its
-- user. Users take turns until that is used up, those with few webhooks first; one event is
-- always taken. Now and then the oldest goes first, so that one that fills a batch by itself
-- does not wait for ever.

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
  v_most constant integer := 2000;
  v_oldest_first constant boolean := random() < 0.1;
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
        sum(t.webhooks) over o as so_far,
        row_number() over o as n
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
      window o as (
        order by t.turn, case when not v_oldest_first then t.webhooks end, t.expires_at, t.id
      )
    ) as c
    where c.so_far <= v_most or c.n = 1;
  end if;
end;
$$;

comment on function webhookpub.next_events (integer) is
  'Locks up to p_limit pending events: the oldest, and some that are new of other users; not more than may become 2,000 deliveries, or one. Returns them.';
