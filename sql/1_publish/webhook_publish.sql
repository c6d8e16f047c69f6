-- Publishes on the direct path: matches and inserts the deliveries at once, in the caller's
-- transaction.
--
-- Called by  applications that do not want to wait for a fan-out.
-- Locks      nothing that another publisher waits for, but for one that publishes the
--            very same id at this moment.
-- Returns    the event id; null when publishing is off or failed (a WARNING says why).
--
-- What takes too long to match is left to the fan-out, which gives it more time; and what has an
-- ordering key, for the fan-out keeps the order.

create or replace function public.webhook_publish (
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
  v_at constant timestamptz := clock_timestamp();
  v_id text;
  v_event webhookpub.events;
begin
  v_id := public.webhook_publish_tx(
    event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
    event_id, ordering_key
  );
  -- Only what is new: an id that was there already has been published.
  select e.* into v_event from webhookpub.events as e where e.id = v_id;
  if v_event.status = 'pending' and v_event.created_at >= v_at and v_event.ordering_key is null then
    perform webhookpub.fan_out_events(array[v_event]);
  end if;
  return v_id;
exception
  when sqlstate 'WH023' then
    return public.webhook_publish_best_effort_tx(
      event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
      event_id, ordering_key
    );
  when others then
    raise warning 'event % of user % is dropped: % (%)',
      event_type, user_id, sqlerrm, sqlstate;
    return null;
end;
$$;

comment on function public.webhook_publish
  (text, text, jsonb, text, text, text[], text, text, text, text) is
  'Matches and queues the deliveries at once; what has an ordering key the fan-out does, in order. Never raises: an error is a WARNING and the event is dropped.';
