-- Publishes an event in the caller's transaction: it commits with the caller's data.
--
-- Called by  triggers and applications, before an irreversible side effect.
-- Locks      nothing that another publisher waits for, but for one that publishes the
--            very same id at this moment. Inserts one row, and nothing else.
-- Returns    the event id, also when it was there already; null when publishing is off.
-- Raises     WH001, WH002, WH003, WH004, WH005.

create or replace function public.webhook_publish_tx (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_at constant timestamptz := clock_timestamp();
  v_event record;
  v_asleep boolean;
begin
  v_event := webhookpub.compose_event(
    webhook_publish_tx.event_type, webhook_publish_tx.user_id, webhook_publish_tx.data,
    webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
    webhook_publish_tx.labels, webhook_publish_tx.message_id,
    webhook_publish_tx.dedup_key, v_at, webhook_publish_tx.event_id
  );
  if v_event.event_id is null then
    return null;
  end if;
  if coalesce(
      webhook_publish_tx.event_id, webhook_publish_tx.message_id,
      webhook_publish_tx.dedup_key
    ) is not null
    and webhookpub.is_known_event(v_event.event_id, webhook_publish_tx.user_id)
  then
    return v_event.event_id;
  end if;

  insert into webhookpub.events
    (id, user_id, type, agent_id, conversation_id, labels, message_id, envelope, created_at,
     expires_at)
  values (
    v_event.event_id, webhook_publish_tx.user_id, webhook_publish_tx.event_type,
    webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
    coalesce(webhook_publish_tx.labels, '{}'), webhook_publish_tx.message_id,
    v_event.envelope, v_at, v_event.expires_at
  )
  on conflict (id) do nothing
  returning webhookpub.fan_out_is_asleep() into v_asleep;
  if not found then
    -- Somebody was faster, with the very same id.
    perform webhookpub.is_known_event(v_event.event_id, webhook_publish_tx.user_id);
    return v_event.event_id;
  end if;

  if v_asleep then
    notify webhook_events_new;
  end if;
  return v_event.event_id;
end;
$$;

comment on function public.webhook_publish_tx
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Publishes an event in your transaction, or raises (WH001 to WH005). Returns its id; an id that is there already is a no-op. In PL/pgSQL: perform webhook_publish_tx(...).';
