-- Publishes an event in the caller's transaction, but never stands in its way.
--
-- Called by  triggers that run after an irreversible side effect.
-- Returns    the event id; null when publishing is off or failed. A failure is kept in
--            webhookpub.publish_failures.

create or replace function public.webhook_publish_best_effort_tx (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null,
  ordering_key text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_sqlstate text;
  v_message text;
begin
  return public.webhook_publish_tx(
    event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
    event_id, ordering_key
  );
exception when others then
  get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text;
  begin
    insert into webhookpub.publish_failures as f
      (event_type, user_id, data, agent_id, conversation_id, labels, message_id,
       dedup_key, event_id, ordering_key, sqlstate, message)
    values
      (event_type, user_id, data, agent_id, conversation_id, labels, message_id,
       dedup_key, event_id, ordering_key, v_sqlstate, v_message);
  exception when others then
    raise warning 'event % of user % is dropped: % (%); not even the failure could be kept: %',
      event_type, user_id, v_message, v_sqlstate, sqlerrm;
  end;
  return null;
end;
$$;

comment on function public.webhook_publish_best_effort_tx
  (text, text, jsonb, text, text, text[], text, text, text, text) is
  'Like webhook_publish_tx, but never raises: a failure becomes a row of webhookpub.publish_failures, and null is returned.';
