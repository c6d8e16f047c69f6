-- One tick: turns pending events into deliveries, and adds a job for each webhook with work.
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
  v_webhook_ids text[];
begin
  select b.event_count, b.delivery_count, b.webhook_ids
  into event_count, delivery_count, v_webhook_ids
  from webhookpub.fan_out_batch(p_limit) as b;
  if v_webhook_ids is not null then
    perform webhookpub.add_deliver_jobs(v_webhook_ids);
  end if;
  return next;
end;
$$;

comment on function webhookpub.fan_out (integer) is
  'Turns up to p_limit pending events into deliveries, of which it makes no more than a few thousand at once; returns how many of each. Safe to run any number of times at once.';
