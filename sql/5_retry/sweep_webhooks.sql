-- Picks the webhooks that the sweep comes to next: all those with pending deliveries, in the
-- order of their ids, so many at a time, whatever has crowded them out of what ticks look at.
--
-- Called by  webhookpub.wake_deliveries.
-- Locks      where the sweep is; a second one does nothing meanwhile. So all workers
--            together do one sweep.
-- Returns    them, or null. When it has come to the end it begins again 20 s later, and until
--            then it goes on four times a second; with p_at_once it does not wait.

create or replace function webhookpub.sweep_webhooks (
  p_at_once boolean,
  p_now timestamptz,
  p_limit integer default 2000
)
  returns text[]
  language plpgsql
  volatile
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_position text;
  v_webhook_ids text[];
begin
  select s.position into v_position
  from webhookpub.sweep as s
  -- Also if the clock was set back.
  where p_at_once or s.next_at not between p_now and p_now + interval '20 seconds'
  for update skip locked;
  if not found then
    return null;
  end if;
  -- From one webhook with pending deliveries to the next, by one look into the index.
  with recursive pending as (
    select min(q.webhook_id) as webhook_id, 1 as n
    from webhookpub.queue as q
    where q.webhook_id > v_position
    union all
    select
      (
        select min(q.webhook_id)
        from webhookpub.queue as q
        where q.webhook_id > p.webhook_id
      ),
      p.n + 1
    from pending as p
    where p.webhook_id is not null and p.n < p_limit
  )
  select array_agg(p.webhook_id), max(p.webhook_id) filter (where p.n = p_limit)
  into v_webhook_ids, v_position
  from pending as p
  where p.webhook_id is not null;
  update webhookpub.sweep as s
  set
    position = coalesce(v_position, ''),
    next_at = p_now
      + case when v_position is null then interval '20 seconds' else interval '250 milliseconds' end;
  return v_webhook_ids;
end;
$$;

comment on function webhookpub.sweep_webhooks (boolean, timestamptz, integer) is
  'The next webhooks with pending deliveries that the sweep looks at, or null: it comes to all of them, p_limit at a time, and begins again 20 s later.';
