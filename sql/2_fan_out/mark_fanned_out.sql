-- Fans a batch out, marks its events and moves their bytes to where they are kept: all or
-- nothing.
--
-- Called by  webhookpub.fan_out.
-- Returns    how many deliveries are new, and the webhooks that got work.

create or replace function webhookpub.mark_fanned_out (
  p_events webhookpub.events[],
  out delivery_count bigint,
  out webhook_ids text[]
)
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  with matched as materialized (
    select f.* from webhookpub.fan_out_events(p_events) as f
  ),
  moved as (
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select p.id, p.created_at, p.user_id, p.envelope
    from unnest(p_events) as p
    where p.envelope is not null
  ),
  marked as (
    update webhookpub.events as e
    set
      status = (
        case when m.event_id is null then 'no_match' else 'processed' end
      )::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.matched_webhook_ids, '{}'),
      envelope = null,
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from unnest(p_events) as p
    left join matched as m on m.event_id = p.id
    where e.id = p.id
  )
  select
    coalesce(sum(m.delivery_count), 0)::bigint,
    array(
      select distinct w.id
      from matched as g
      cross join unnest(g.matched_webhook_ids) as w (id)
      where g.delivery_count > 0
    )
  from matched as m;
$$;

comment on function webhookpub.mark_fanned_out (webhookpub.events[]) is
  'Inserts the deliveries of these events and marks them processed or no_match.';
