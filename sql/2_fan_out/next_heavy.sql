-- Picks the next event of the heavy lane, and locks it: the oldest of the user whose turn it is.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the event; those that another fan-out has are skipped.
-- Returns    it, or null; also when it would overtake an earlier one with its ordering key.
--
-- Whoever comes next after the last one is next; the session keeps that.

create or replace function webhookpub.next_heavy (
  out events webhookpub.events[]
)
  language plpgsql
  volatile
  -- By index, whatever stale statistics say.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_after text := coalesce(current_setting('webhookpub.heavy_turn', true), '');
  v_event webhookpub.events;
begin
  loop
    select e.* into v_event
    from webhookpub.events as e
    where e.status = 'pending'
      and e.pending_user_id > v_after
      and e.pending_user_id < chr(2)
      and (e.retry_at is null or e.retry_at <= v_now)
    order by e.status, e.pending_user_id, e.expires_at
    limit 1
    for update skip locked;
    exit when found or v_after = '';
    v_after := '';
  end loop;
  if not found then
    return;
  end if;
  events := array[v_event];
  if v_event.ordering_key is not null then
    events := webhookpub.keep_order(events);
    if events is null then
      -- It makes room for others until what is before it has gone.
      update webhookpub.events as e
      set retry_at = greatest(e.retry_at, clock_timestamp() + interval '100 milliseconds')
      where e.id = v_event.id;
    end if;
  end if;
end;
$$;

comment on function webhookpub.next_heavy () is
  'Locks and returns the next event of the heavy lane, of all users in turn; null if there is none.';
