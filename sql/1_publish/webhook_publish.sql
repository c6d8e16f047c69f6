-- Publishes on the direct path: matches and inserts the deliveries at once, with no event
-- row and no outbox.
--
-- Called by  applications that want no trace of events which nobody listens to.
-- Locks      the id, if it is not random: only who publishes the very same id waits.
-- Returns    the event id; null when publishing is off or failed (a WARNING says why).

create or replace function public.webhook_publish (
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
  v_composed record;
  v_event webhookpub.events;
begin
  v_composed := webhookpub.compose_event(
    webhook_publish.event_type, webhook_publish.user_id, webhook_publish.data,
    webhook_publish.agent_id, webhook_publish.conversation_id, webhook_publish.labels,
    webhook_publish.message_id, webhook_publish.dedup_key, v_at, webhook_publish.event_id
  );
  if v_composed.event_id is null then
    return null;
  end if;
  if coalesce(
      webhook_publish.event_id, webhook_publish.message_id, webhook_publish.dedup_key
    ) is not null
  then
    -- With no event row, nothing else keeps two of one id apart.
    perform pg_advisory_xact_lock(2003006836, hashtext(v_composed.event_id));
    if webhookpub.is_known_event(v_composed.event_id, webhook_publish.user_id) then
      return v_composed.event_id;
    end if;
  end if;

  v_event.id := v_composed.event_id;
  v_event.user_id := webhook_publish.user_id;
  v_event.type := webhook_publish.event_type;
  v_event.agent_id := webhook_publish.agent_id;
  v_event.conversation_id := webhook_publish.conversation_id;
  v_event.labels := coalesce(webhook_publish.labels, '{}');
  v_event.message_id := webhook_publish.message_id;
  v_event.envelope := v_composed.envelope;
  v_event.created_at := v_at;

  perform from webhookpub.fan_out_events(array[v_event]);
  if found then
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    values (v_event.id, v_at, v_event.user_id, v_event.envelope);
    if webhookpub.fan_out_is_asleep() then
      notify webhook_events_new;
    end if;
  end if;
  return v_event.id;
exception when others then
  raise warning 'webhook event % of user % is dropped: % (%)',
    webhook_publish.event_type, webhook_publish.user_id, sqlerrm, sqlstate;
  return null;
end;
$$;

comment on function public.webhook_publish
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Matches and queues the deliveries at once, without an event row. Never raises: an error is a WARNING and the event is dropped.';
