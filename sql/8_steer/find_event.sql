-- Finds an event that was fanned out, and with it the webhooks that it matched then.
--
-- Called by  webhookpub.redeliver.
-- Returns    the event. One that has expired is put together from its first deliveries, as far
--            as they tell.
-- Raises     WH020; WH022 when it has not been fanned out yet.

create or replace function webhookpub.find_event (
  p_event_id text
)
  returns webhookpub.events
  language plpgsql
  stable
as $$
declare
  v_event webhookpub.events;
begin
  select e.* into v_event from webhookpub.events as e where e.id = p_event_id;
  if v_event.status = 'pending' then
    raise exception using
      errcode = 'WH022',
      message = format('event %L has not been fanned out yet', p_event_id),
      hint = 'What it matches is not decided yet: is a worker running?';
  end if;
  if v_event.id is not null then
    return v_event;
  end if;

  select d.event_id, w.user_id, d.event_type, d.message_id, d.event_created_at, array_agg(w.id)
  into
    v_event.id, v_event.user_id, v_event.type, v_event.message_id, v_event.created_at,
    v_event.matched_webhook_ids
  from webhookpub.delivery_history as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.event_id = p_event_id and d.replay_id is null
  group by d.event_id, w.user_id, d.event_type, d.message_id, d.event_created_at;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format('no such event: %s', coalesce(quote_literal(left(p_event_id, 210)), 'null')),
      hint = 'Events are kept for settings.event_retention.';
  end if;
  return v_event;
end;
$$;

comment on function webhookpub.find_event (text) is
  'An event that was fanned out, with the webhooks that it matched. Raises WH020, WH022.';
