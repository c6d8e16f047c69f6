-- One tick: turns pending events into deliveries, of the heavy lane one, and adds a job for each
-- webhook with work.
--
-- Called by  psql, or whoever has no worker at hand that would deliver them.
-- Locks      the events it takes, skipping those that another fan-out has.
-- Returns    how many events were fanned out, and how many deliveries that made.

create or replace function webhookpub.fan_out (
  p_limit integer default 500
)
  returns table (
    event_count integer,
    delivery_count integer
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch record;
  v_heavy record;
begin
  v_batch := webhookpub.fan_out_batch(p_limit);
  event_count := v_batch.event_count;
  delivery_count := v_batch.delivery_count;
  if v_batch.heavy_waits and event_count < p_limit and not webhookpub.time_is_up(0.5) then
    v_heavy := webhookpub.fan_out_batch(p_heavy => true);
    event_count := event_count + v_heavy.event_count;
    delivery_count := delivery_count + v_heavy.delivery_count;
    v_batch.webhook_ids := v_batch.webhook_ids || v_heavy.webhook_ids;
  end if;
  if v_batch.webhook_ids is not null then
    perform webhookpub.add_deliver_jobs(v_batch.webhook_ids);
  end if;
  return next;
end;
$$;

comment on function webhookpub.fan_out (integer) is
  'Turns up to p_limit pending events into deliveries, of which it makes no more than a few thousand at once unless one event goes to more; returns how many of each. Safe to run any number of times at once.';
