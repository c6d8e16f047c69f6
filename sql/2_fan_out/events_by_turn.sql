-- Finds pending events of many users, when one user's may fill a batch, and locks them.
--
-- Called by  webhookpub.oldest_events.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    where they are: the oldest of each of up to p_limit users, or, if that is all users, so
--            many of each that they are p_limit, if each has as many.
--
-- The index leads from one user to the next, however many events one of them has. Whoever comes
-- next after the last one is next in the following batch: the session keeps that.

create or replace function webhookpub.events_by_turn (
  p_limit integer,
  p_but_keys text[],
  p_now timestamptz
)
  returns tid[]
  language plpgsql
  volatile
as $$
declare
  -- Before it are those of the heavy lane.
  v_after constant text := coalesce(nullif(current_setting('webhookpub.turn', true), ''), chr(2));
  v_users text[];
begin
  with recursive pending (user_id) as (
    select v_after collate "C"
    union all
    select (
      select e.pending_user_id
      from webhookpub.events as e
      where e.status = 'pending' and e.pending_user_id > p.user_id
      order by e.status, e.pending_user_id
      limit 1
    )
    from pending as p
    where p.user_id is not null
  )
  select array_agg(u.user_id) into v_users
  from (select p.user_id from pending as p offset 1 limit p_limit) as u
  where u.user_id is not null;
  perform set_config(
    'webhookpub.turn',
    case when cardinality(v_users) = p_limit then v_users[p_limit] else '' end,
    false
  );
  return array(
    select h.at
    from unnest(v_users) as u (user_id)
    cross join lateral (
      select e.ctid as at
      from webhookpub.events as e
      where e.status = 'pending'
        and e.pending_user_id = u.user_id
        and (e.retry_at is null or e.retry_at <= p_now)
        and (e.ordering_key = any (p_but_keys)) is not true
      order by e.status, e.pending_user_id, e.expires_at
      -- Whoever is at the end of a round has no more than who was before.
      limit case when v_after = chr(2) then (p_limit - 1) / cardinality(v_users) + 1 else 1 end
      for update skip locked
    ) as h
  );
end;
$$;

comment on function webhookpub.events_by_turn (integer, text[], timestamptz) is
  'Locks the oldest pending events of the users whose turn it is, but those with these ordering keys; returns where they are.';
