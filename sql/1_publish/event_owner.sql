-- Finds out whose an event id is, on whichever path it was published.
--
-- Called by  public.webhook_publish_tx, webhookpub.refuse_event, for ids that are not
--            random.
-- Returns    the user's id, or null when nobody has published it.

create or replace function webhookpub.event_owner (
  p_event_id text
)
  returns text
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
    from webhookpub.delivery_history as d
    join webhookpub.webhooks as w on w.id = d.webhook_id
    where d.event_id = p_event_id and d.replay_id is null
    limit 1;
  end if;
  return v_user_id;
end;
$$;

comment on function webhookpub.event_owner (text) is
  'The user that has published this event id; null when nobody has.';
