-- Refuses a replay of what is not there. What is somebody else's is not there either.
--
-- Called by  webhookpub.redeliver.
-- Raises     WH020.

create or replace function webhookpub.check_replay (
  p_event_id text,
  p_webhook_id text
)
  returns void
  language plpgsql
  stable
as $$
begin
  if not exists (select from webhookpub.events as e where e.id = p_event_id)
    and not exists (select from webhookpub.match_decision(p_event_id))
  then
    raise exception using
      errcode = 'WH020',
      message = format('no such event: %s', coalesce(quote_literal(left(p_event_id, 200)), 'null')),
      hint = 'Events are kept for settings.event_retention.';
  end if;
  perform from webhookpub.match_decision(p_event_id) as m where m.webhook_id = p_webhook_id;
  if p_webhook_id is not null and not found then
    raise exception using
      errcode = 'WH020',
      message = format(
        'no such webhook: event %L was not for %L', p_event_id, left(p_webhook_id, 100)
      ),
      hint = 'See for which it was with: select matched_webhook_ids from webhookpub.events;';
  end if;
end;
$$;

comment on function webhookpub.check_replay (text, text) is
  'Raises WH020 when there is no such event, or it was not for that webhook.';
