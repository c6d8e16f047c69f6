-- Finds pending events, of each user the oldest first, and locks them; while more wait than that, of
-- all users in turn, and one user's after another's only where users in turn have too few.
--
-- Called by  webhookpub.next_events.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    where they are, or null; p_limit or more, if so many wait.

create or replace function webhookpub.oldest_events (
  p_limit integer,
  p_but_keys text[],
  p_now timestamptz
)
  returns tid[]
  language plpgsql
  volatile
as $$
declare
  v_at tid[];
begin
  if p_limit > 1 and exists (
    select
    from webhookpub.events as e
    where e.status = 'pending' and e.pending_user_id >= chr(2)
      and (e.retry_at is null or e.retry_at <= p_now)
      and (e.ordering_key = any (p_but_keys)) is not true
    order by e.status, e.pending_user_id, e.expires_at
    offset p_limit - 1
  ) then
    v_at := webhookpub.events_by_turn(p_limit, p_but_keys, p_now);
  end if;
  if cardinality(v_at) >= p_limit then
    return v_at;
  end if;
  -- Where they are: with the rows, PostgreSQL would read all their bytes.
  select v_at || array_agg(p.at) into v_at
  from (
    select u.at
    from (
      select e.ctid as at
      from webhookpub.events as e
      where e.status = 'pending' and e.pending_user_id >= chr(2)
        and (e.retry_at is null or e.retry_at <= p_now)
        and (e.ordering_key = any (p_but_keys)) is not true
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
        and (e.ordering_key = any (p_but_keys)) is not true
      order by e.status, e.pending_user_id, e.expires_at
      limit p_limit
      for update skip locked
    ) as n
    limit greatest(p_limit, 0)
  ) as p;
  return v_at;
end;
$$;

comment on function webhookpub.oldest_events (integer, text[], timestamptz) is
  'Locks the oldest pending events, but those with these ordering keys, of all users in turn; returns where they are.';
