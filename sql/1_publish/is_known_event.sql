-- Says whether an event id has been published before, on whichever path, and refuses it
-- if that was for another user: that would be a silent loss.
--
-- Called by  public.webhook_publish_tx, for ids that are not random.
-- Raises     WH004.

create or replace function webhookpub.is_known_event (
  p_event_id text,
  p_user_id text
)
  returns boolean
  language plpgsql
  volatile
as $$
declare
  v_user_id text;
begin
  select e.user_id into v_user_id from webhookpub.events as e where e.id = p_event_id;
  if not found then
    -- On the direct path an event leaves deliveries only.
    select w.user_id into v_user_id
    from webhookpub.deliveries as d
    join webhookpub.webhooks as w on w.id = d.webhook_id
    where d.event_id = p_event_id and d.replay_id is null
    limit 1;
  end if;
  if v_user_id <> p_user_id then
    raise exception using
      errcode = 'WH004',
      message = format('event id %L belongs to another user than %L', p_event_id, p_user_id),
      hint = 'Make the id, message_id or dedup_key unique over all users.';
  end if;
  return v_user_id is not null;
end;
$$;

comment on function webhookpub.is_known_event (text, text) is
  'Whether the user has published this id before. Raises WH004 when another user has.';
