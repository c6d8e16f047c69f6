-- Refuses an event id that another user has taken: that would be a silent loss.
--
-- Called by  public.webhook_publish_tx, public.webhook_publish.
-- Raises     WH004.

create or replace function webhookpub.check_event_owner (
  p_event_id text,
  p_user_id text
)
  returns void
  language plpgsql
  volatile
as $$
begin
  perform from webhookpub.events as e where e.id = p_event_id and e.user_id <> p_user_id;
  if found then
    raise exception using
      errcode = 'WH004',
      message = format('event id %L belongs to another user than %L', p_event_id, p_user_id),
      hint = 'Make the id, message_id or dedup_key unique over all users.';
  end if;
end;
$$;

comment on function webhookpub.check_event_owner (text, text) is
  'Raises WH004 when the event exists and belongs to another user.';
