-- Publishes an event in the caller's transaction: it commits with the caller's data.
--
-- Called by  triggers and applications, before an irreversible side effect.
-- Locks      nothing that another publisher waits for, but for one that publishes the
--            very same id at this moment. Inserts one row, and nothing else.
-- Returns    the event id, also when it was there already; null when publishing is off.
-- Raises     WH001, WH002, WH003, WH004, WH005.
--
-- It runs in other people's transactions all the time, and PL/pgSQL prepares every
-- expression anew in each of them. So there are few: all that usually holds is one, and
-- only if it does not hold is it worked out what is wrong.

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
  v_id text := webhook_publish_tx.event_id;
  v_key constant text := coalesce(
    v_id, webhook_publish_tx.message_id, webhook_publish_tx.dedup_key
  );
  v_envelope text;
  v_expires_at timestamptz;
  v_bytes bigint;
  v_max_bytes integer;
  v_allowed boolean;
  v_asleep boolean;
begin
  select
    s.max_payload_bytes,
    v_at + s.event_retention,
    s.publish_enabled and exists (
      select from webhookpub.event_types as t where t.name = webhook_publish_tx.event_type
    )
  into v_max_bytes, v_expires_at, v_allowed
  from webhookpub.settings as s;

  v_id := coalesce(v_id, case
    when v_key is null then webhookpub.random_event_id()
    else webhookpub.event_id(variadic array_remove(array[
      webhook_publish_tx.message_id, webhook_publish_tx.event_type,
      webhook_publish_tx.dedup_key
    ], null))
  end);
  -- Neither the type nor the id can hold what JSON would have to escape.
  v_envelope := '{"event": "' || webhook_publish_tx.event_type || '", "id": "' || v_id
    || '", "created_at": "' || webhookpub.rfc3339(v_at)
    || '", "data": ' || webhook_publish_tx.data::text || '}';
  v_bytes := octet_length(v_envelope)
    + coalesce(octet_length(webhook_publish_tx.agent_id), 0)
    + coalesce(octet_length(webhook_publish_tx.conversation_id), 0)
    + coalesce(octet_length(webhook_publish_tx.message_id), 0)
    + case when cardinality(webhook_publish_tx.labels) > 0
      then pg_column_size(webhook_publish_tx.labels) else 0
    end;
  if (
    v_allowed
    and length(webhook_publish_tx.user_id) between 1 and 200
    and jsonb_typeof(webhook_publish_tx.data) = 'object'
    and v_bytes <= v_max_bytes
    and (
      webhook_publish_tx.event_id is null
      or (v_id ~ '^[!#-\[\]-~]+$' and length(v_id) <= 200)
    )
  ) is not true then
    perform webhookpub.refuse_event(
      webhook_publish_tx.event_type, webhook_publish_tx.user_id, webhook_publish_tx.data,
      webhook_publish_tx.event_id, v_bytes
    );
    return null;
  end if;
  if v_key is not null and webhookpub.is_known_event(v_id, webhook_publish_tx.user_id) then
    return v_id;
  end if;

  insert into webhookpub.events
    (id, user_id, type, agent_id, conversation_id, labels, message_id, envelope, created_at,
     expires_at)
  values (
    v_id, webhook_publish_tx.user_id, webhook_publish_tx.event_type,
    webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
    coalesce(webhook_publish_tx.labels, '{}'), webhook_publish_tx.message_id, v_envelope,
    v_at, v_expires_at
  )
  on conflict (id) do nothing
  returning webhookpub.fan_out_is_asleep() into v_asleep;
  if v_asleep then
    notify webhook_events_new;
  elsif v_asleep is null then
    -- Somebody was faster, with the very same id.
    perform webhookpub.is_known_event(v_id, webhook_publish_tx.user_id);
  end if;
  return v_id;
end;
$$;

comment on function public.webhook_publish_tx
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Publishes an event in your transaction, or raises (WH001 to WH005). Returns its id; an id that is there already is a no-op. In PL/pgSQL: perform webhook_publish_tx(...).';
