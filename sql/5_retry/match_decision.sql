-- Reads for which webhooks an event was, as it was decided when it was fanned out.
--
-- Called by  webhookpub.redeliver, webhookpub.check_replay.
-- Returns    one row a webhook, with what a replay needs; none while the event is pending.
--            An event of the direct path has no row in events: there its first deliveries
--            are the decision, as long as its bytes are kept.

create or replace function webhookpub.match_decision (
  p_event_id text
)
  returns table (
    webhook_id text,
    event_type text,
    event_created_at timestamptz,
    message_id text
  )
  language sql
  stable
as $$
  select m.webhook_id, e.type, e.created_at, e.message_id
  from webhookpub.events as e
  cross join unnest(e.matched_webhook_ids) as m (webhook_id)
  where e.id = p_event_id
  union all
  select d.webhook_id, d.event_type, d.event_created_at, d.message_id
  from webhookpub.deliveries as d
  where d.event_id = p_event_id
    and d.replay_id is null
    and not exists (select from webhookpub.events as e where e.id = p_event_id)
    and exists (
      select
      from webhookpub.envelopes as n
      where n.event_id = p_event_id and n.created_at = d.event_created_at
    );
$$;

comment on function webhookpub.match_decision (text) is
  'The webhooks that an event was for when it was fanned out; replays go by it.';
