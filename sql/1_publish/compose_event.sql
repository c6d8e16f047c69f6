-- Checks what somebody wants to publish and composes the event: its id and its bytes.
--
-- Called by  public.webhook_publish_tx, public.webhook_publish.
-- Returns    the id and the envelope; both null when publishing is switched off.
-- Raises     WH001, WH002, WH003, WH005.

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
  v_settings webhookpub.settings;
  v_bytes bigint;
begin
  select s.* into v_settings from webhookpub.settings as s;
  if not v_settings.publish_enabled then
    event_id := null;
    return;
  end if;
  if p_user_id is null or p_user_id = '' or length(p_user_id) > 200 then
    raise exception using
      errcode = 'WH005',
      message = format(
        'user id %s: an event needs the id of its user, 1 to 200 characters',
        coalesce(quote_literal(left(p_user_id, 40)), 'null')
      ),
      hint = 'Pass the tenant whose webhooks shall get the event as user_id.';
  end if;
  perform from webhookpub.event_types as t where t.name = p_event_type;
  if not found then
    raise exception using
      errcode = 'WH002',
      message = format(
        'event type %s is not in the catalog',
        coalesce(quote_literal(left(p_event_type, 100)), 'null')
      ),
      hint = 'List it with: table webhookpub.event_types; add to it with INSERT.';
  end if;
  if jsonb_typeof(p_data) is distinct from 'object' then
    raise exception using
      errcode = 'WH003',
      message = format(
        'data is %s: an event''s data must be a JSON object',
        coalesce(jsonb_typeof(p_data), 'null')
      ),
      hint = 'Wrap it, for example with jsonb_build_object(''value'', …).';
  end if;
  if event_id is null then
    event_id := case
      when p_message_id is null and p_dedup_key is null then webhookpub.random_event_id()
      else webhookpub.event_id(
        variadic array_remove(array[p_message_id, p_event_type, p_dedup_key], null)
      )
    end;
  elsif event_id !~ '^[!#-\[\]-~]{1,200}$' then
    raise exception using
      errcode = 'WH001',
      message = format(
        'event id %L: it must be 1 to 200 visible ASCII characters without double quote and backslash', left(event_id, 210)
      ),
      hint = 'It travels as an HTTP header and in JSON. Leave it out to get one made.';
  end if;
  -- Neither the type nor the id can hold what JSON would have to escape.
  envelope := '{"event": "' || p_event_type || '", "id": "' || event_id
    || '", "created_at": "' || webhookpub.rfc3339(p_created_at)
    || '", "data": ' || p_data::text || '}';
  v_bytes := octet_length(envelope)
    + octet_length(concat(p_agent_id, p_conversation_id, p_message_id))
    + case when p_labels = '{}' then 0 else coalesce(octet_length(p_labels::text), 0) end;
  if v_bytes > v_settings.max_payload_bytes then
    raise exception using
      errcode = 'WH003',
      message = format(
        'event of %s bytes is over the limit of %s', v_bytes, v_settings.max_payload_bytes
      ),
      hint = 'Send a reference instead, or raise webhookpub.settings.max_payload_bytes.';
  end if;
  expires_at := p_created_at + v_settings.event_retention;
end;
$$;

comment on function webhookpub.compose_event
  (text, text, jsonb, text, text, text[], text, text, timestamptz, text) is
  'Checks an event and composes its id and envelope; null when publishing is off. Raises WH001, WH002, WH003, WH005.';
