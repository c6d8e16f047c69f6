-- The tick: makes sure that whatever is due has a job, upkeep among it, which is due a minute
-- after its last round, by this clock and not by those of the workers.
--
-- Called by  every worker, once a second and by an awake fan-out every 100 ms or so, for the last
--            seconds only, and when it starts.
-- Locks      none that anybody waits for.

create or replace function webhookpub.wake (
  p_window interval default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- It runs each second with nothing to do: planning took four fifths of that.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
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
    perform webhookpub.add_task_job('webhook_fan_out', p_priority => -1);
  end if;
  -- Also if the clock was set back.
  if exists (
    select
    from webhookpub.upkeep as u
    where u.finished_at not between v_now - interval '1 minute' and v_now + interval '1 minute'
  ) then
    perform webhookpub.add_task_job('webhook_maintain');
  end if;
  perform webhookpub.park_lost(v_now);
  if webhookpub.delivery_is_on() then
    perform webhookpub.wake_deliveries(
      case when p_window < '100 years' then v_now - greatest(p_window, '0') else '-infinity' end
    );
  end if;
end;
$$;

comment on function webhookpub.wake (interval) is
  'Adds the jobs that are missing: upkeep once a minute, a fan-out for pending events, a delivery for each webhook with something that became due within the window (null: ever; then the sweep goes on at once).';
