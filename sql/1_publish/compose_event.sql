-- Checks what somebody wants to publish and composes the event: its id and its bytes.
--
-- Called by  public.webhook_publish_tx, public.webhook_publish.
-- Returns    the id, the envelope and when the event expires; all null when publishing is
--            switched off.
-- Raises     what webhookpub.refuse_event raises.
--
-- All that usually holds is one expression: PL/pgSQL prepares each of them anew in every
-- transaction. Only if it does not hold is it worked out what is wrong.

create or replace function webhookpub.compose_event (
  p_event_type text,
  p_user_id text,
  p_data jsonb,
  p_agent_id text,
  p_conversation_id text,
  p_labels text[],
  p_message_id text,
  p_dedup_key text,
  p_created_at timestamptz,
  inout event_id text,
  out envelope text,
  out expires_at timestamptz
)
  language plpgsql
  volatile
as $$
declare
  v_given constant text := event_id;
  v_max_bytes integer;
  v_bytes bigint;
  v_allowed boolean;
begin
  select
    s.max_payload_bytes,
    p_created_at + s.event_retention,
    s.publish_enabled
      and exists (select from webhookpub.event_types as t where t.name = p_event_type)
  into v_max_bytes, expires_at, v_allowed
  from webhookpub.settings as s;

  event_id := coalesce(v_given, case
    when p_message_id is null and p_dedup_key is null then webhookpub.random_event_id()
    else webhookpub.event_id(
      variadic array_remove(array[p_message_id, p_event_type, p_dedup_key], null)
    )
  end);
  -- Neither the type nor the id can hold what JSON would have to escape.
  envelope := '{"event": "' || p_event_type || '", "id": "' || event_id
    || '", "created_at": "' || webhookpub.rfc3339(p_created_at)
    || '", "data": ' || p_data::text || '}';
  v_bytes := octet_length(envelope) + octet_length(concat(
    p_agent_id, p_conversation_id, p_message_id, array_to_string(p_labels, ',')
  ));

  if (
    v_allowed
    and length(p_user_id) between 1 and 200
    and jsonb_typeof(p_data) = 'object'
    and (v_given is null or (v_given ~ '^[!#-\[\]-~]+$' and length(v_given) <= 200))
    and v_bytes <= v_max_bytes
  ) is not true then
    perform webhookpub.refuse_event(p_event_type, p_user_id, p_data, v_given, v_bytes);
    event_id := null;
    envelope := null;
    expires_at := null;
  end if;
end;
$$;

comment on function webhookpub.compose_event
  (text, text, jsonb, text, text, text[], text, text, timestamptz, text) is
  'Checks an event and composes its id and envelope; null when publishing is off. Raises WH001, WH002, WH003, WH005.';
