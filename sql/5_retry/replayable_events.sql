-- Finds what a webhook can be sent again, in one pass over its deliveries.
--
-- Called by  webhookpub.redeliver_since.
-- Returns    the events published from p_since to before p_until that were for the
--            webhook and have no delivery to it that is pending; with p_only_failed, those
--            whose last delivery to it failed.

create or replace function webhookpub.replayable_events (
  p_webhook webhookpub.webhooks,
  p_since timestamptz,
  p_until timestamptz,
  p_only_failed boolean
)
  returns table (
    event_id text,
    event_type text,
    event_created_at timestamptz,
    message_id text
  )
  language sql
  stable
  -- Much meets much here, whatever stale statistics say.
  set enable_nestloop = off
  set enable_seqscan = off
  set jit = off
as $$
  with delivery as materialized (
    select
      d.event_id, d.event_type, d.event_created_at, d.message_id, d.replay_id, d.status,
      d.created_at
    from webhookpub.deliveries as d
    where d.webhook_id = p_webhook.id
      -- No delivery is older than its event, unless the clock was put back.
      and d.created_at >= p_since - interval '1 hour'
      and d.event_created_at >= p_since
      and d.event_created_at < p_until
  ),
  last_delivery as (
    select distinct on (d.event_id) d.event_id, d.status
    from delivery as d
    order by d.event_id, d.status = 'pending' desc, d.created_at desc
  ),
  matched as (
    select e.id as event_id, e.type as event_type, e.created_at as event_created_at, e.message_id
    from webhookpub.events as e
    where e.user_id = p_webhook.user_id
      and e.created_at >= p_since
      and e.created_at < p_until
      and p_webhook.id = any (e.matched_webhook_ids)
    union all
    -- Those of the direct path have no event row; their bytes may have expired.
    select d.event_id, d.event_type, d.event_created_at, d.message_id
    from delivery as d
    where d.replay_id is null
      and (select e.id from webhookpub.events as e where e.id = d.event_id) is null
      and (
        select n.event_id
        from webhookpub.envelopes as n
        where n.event_id = d.event_id and n.created_at = d.event_created_at
      ) is not null
  )
  select m.event_id, m.event_type, m.event_created_at, m.message_id
  from matched as m
  left join last_delivery as l on l.event_id = m.event_id
  where case
    when p_only_failed then l.status = 'failed'
    else l.status is distinct from 'pending'
  end;
$$;

comment on function webhookpub.replayable_events
  (webhookpub.webhooks, timestamptz, timestamptz, boolean) is
  'The events of a time that can be sent to a webhook again, by the stored match decision.';
