-- Publishes on the direct path: matches and inserts the deliveries at once, and leaves no
-- event row.
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
declare
  v_at constant timestamptz := clock_timestamp();
  v_id text;
  v_event webhookpub.events;
  v_count bigint;
begin
  if coalesce(event_id, message_id, dedup_key) is not null then
    -- With no event row, nothing else keeps two of one id apart.
    perform pg_advisory_xact_lock(2003006836, hashtext(
      coalesce(event_id, concat_ws('|', message_id, event_type, dedup_key))
    ));
  end if;
  v_id := public.webhook_publish_tx(
    event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
    event_id
  );
  -- Only what is new: an id that was there already has been published.
  select e.* into v_event
  from webhookpub.events as e
  where e.id = v_id and e.status = 'pending' and e.created_at >= v_at;
  if found then
    v_count := (webhookpub.fan_out_events(array[v_event])).delivery_count;
    delete from webhookpub.events as e where e.id = v_id;
    if v_count = 0 then
      delete from webhookpub.envelopes as n
      where n.event_id = v_id and n.created_at = v_event.created_at;
    end if;
  end if;
  return v_id;
exception when others then
  raise warning 'webhook event % of user % is dropped: % (%)',
    event_type, user_id, sqlerrm, sqlstate;
  return null;
end;
$$;

comment on function public.webhook_publish
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Matches and queues the deliveries at once, without an event row. Never raises: an error is a WARNING and the event is dropped.';
