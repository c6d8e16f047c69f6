-- Finds the events of a batch that would overtake: an earlier one with the same ordering key is
-- pending elsewhere.
--
-- Called by  webhookpub.keep_order.
-- Returns    them, and when that one is tried again if its fan-out fails; nulls when there are none.

create or replace function webhookpub.early_events (
  p_events webhookpub.events[],
  p_now timestamptz,
  out ids text[],
  out retries timestamptz[]
)
  language plpgsql
  stable
as $$
declare
  v_ids constant text[] := array(select e.id from unnest(p_events) as e);
  -- As webhook_publish_tx has it.
  v_kept constant interval := (
    select make_interval(secs => extract(epoch from s.event_retention)::double precision)
    from webhookpub.settings as s
  );
begin
  -- Users are few, and what is pending of one before the last of these events is what somebody
  -- else has just taken.
  with earlier as materialized (
    select x.user_id, x.ordering_key, min(x.created_at) as created_at,
      max(coalesce(x.retry_at, p_now)) filter (where x.last_error is not null) as retry_at
    from (
      select e.user_id, max(e.expires_at) as expires_at
      from unnest(p_events) as e
      where e.ordering_key is not null
      group by e.user_id
    ) as u
    cross join lateral (
      values
        ('-infinity', u.expires_at),
        -- Published when events were kept for longer.
        (p_now + v_kept, 'infinity')
    ) as r (after, upto)
    cross join lateral (
      select x.user_id, x.ordering_key, x.created_at, x.retry_at, x.last_error
      from webhookpub.events as x
      where x.status = 'pending'
        -- In either lane.
        and x.pending_user_id = any (array[u.user_id, chr(1) || u.user_id])
        and x.expires_at > r.after
        and x.expires_at <= r.upto
        and x.ordering_key is not null
        -- Hashed: they may be many times many.
        and x.id not in (select i.id from unnest(v_ids) as i (id))
      offset 0
    ) as x
    group by x.user_id, x.ordering_key
  )
  select array_agg(e.id), array_agg(x.retry_at) into ids, retries
  from unnest(p_events) as e
  join earlier as x on x.user_id = e.user_id and x.ordering_key = e.ordering_key
  where x.created_at < e.created_at;
end;
$$;

comment on function webhookpub.early_events (webhookpub.events[], timestamptz) is
  'The events that would overtake one with the same ordering key that is pending elsewhere, and when that is tried again if it fails.';
