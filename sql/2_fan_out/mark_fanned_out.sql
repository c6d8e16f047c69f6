-- Fans a batch out and marks its events: all or nothing.
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
  set enable_hashjoin = off
  set enable_mergejoin = off
  set enable_seqscan = off
as $$
  with matched as materialized (
    select f.* from webhookpub.fan_out_events(p_events) as f
  ),
  marked as (
    update webhookpub.events as e
    set
      status = (
        case when m.event_id is null then 'no_match' else 'processed' end
      )::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.matched_webhook_ids, '{}'),
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from unnest(p_events) as p
    left join matched as m on m.event_id = p.id
    where e.id = p.id and e.status = 'pending'
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
