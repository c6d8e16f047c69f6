-- Leaves out of a batch what would overtake: events with an ordering key, while an earlier one with
-- the same key is pending elsewhere, or somebody is just ending what they would wait for. They
-- stay pending, for the next batch.
--
-- Called by  webhookpub.next_events, webhookpub.next_heavy, webhookpub.fan_out_singly.
-- Locks      the last delivery in the queue of each key and ordered webhook, until the batch
--            commits: behind it, what is new can't be overlooked by whoever ends it.
-- Returns    the others, or null.

create or replace function webhookpub.keep_order (
  p_events webhookpub.events[]
)
  returns webhookpub.events[]
  language plpgsql
  volatile
as $$
declare
  v_ids constant text[] := array(select e.id from unnest(p_events) as e);
  v_early text[];
  v_failing boolean;
  v_held text[];
begin
  -- Users are few, and what is pending of one before the last of these events is what somebody
  -- else has just taken.
  with earlier as materialized (
    select x.user_id, x.ordering_key, min(x.created_at) as created_at,
      bool_or(x.last_error is not null) as failing
    from (
      select e.user_id, max(e.expires_at) as expires_at
      from unnest(p_events) as e
      where e.ordering_key is not null
      group by e.user_id
    ) as u
    cross join lateral (
      select x.user_id, x.ordering_key, x.created_at, x.last_error
      from webhookpub.events as x
      where x.status = 'pending'
        -- In either lane.
        and x.pending_user_id = any (array[u.user_id, chr(1) || u.user_id])
        and x.expires_at <= u.expires_at
        and x.ordering_key is not null
        and x.id <> all (v_ids)
      offset 0
    ) as x
    group by x.user_id, x.ordering_key
  )
  select array_agg(e.id), bool_or(x.failing) into v_early, v_failing
  from unnest(p_events) as e
  join earlier as x on x.user_id = e.user_id and x.ordering_key = e.ordering_key
  where x.created_at < e.created_at;
  if v_failing then
    -- They make room for others: what they wait for is pending for longer.
    update webhookpub.events as e
    set retry_at = clock_timestamp() + interval '1 second'
    where e.id = any (v_early) and e.status = 'pending';
  end if;

  v_held := webhookpub.hold_tails(array(
    select e from unnest(p_events) as e where e.id = any (v_early) is not true
  ));
  return (
    select array_agg(e)
    from unnest(p_events) as e
    where e.id = any (v_early) is not true and e.id = any (v_held) is not true
  );
end;
$$;

comment on function webhookpub.keep_order (webhookpub.events[]) is
  'Those of these events that overtake none with the same ordering key; what they come behind is locked.';
