-- Says why an event was not written.
--
-- Called by  public.webhook_publish_tx, when it was not.
-- Returns    true when the user has published this id before; false when publishing is
--            switched off; null when nothing speaks against the event any more.
-- Raises     WH001, WH002, WH003, WH004, WH005, WH006.

create or replace function webhookpub.refuse_event (
  p_event_type text,
  p_user_id text,
  p_data jsonb,
  p_event_id text,
  p_ordering_key text,
  p_label_count integer,
  p_bytes integer
)
  returns boolean
  language plpgsql
  volatile
as $$
declare
  v_settings webhookpub.settings;
  v_owner text;
begin
  select s.* into v_settings from webhookpub.settings as s;
  if not v_settings.publish_enabled then
    return false;
  end if;
  if p_user_id is null or length(p_user_id) not between 1 and 200 then
    raise exception using
      errcode = 'WH005',
      message = format(
        'user id %s: an event needs the id of its user, 1 to 200 characters',
        coalesce(quote_literal(left(p_user_id, 40)), 'null')
      ),
      hint = 'Pass the tenant whose webhooks shall get the event as user_id.';
  end if;
  if (p_event_type = any (v_settings.event_types)) is not true then
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
      hint = webhookpub.json_hint(
        p_data, 'Wrap it, for example with jsonb_build_object(''value'', …).'
      );
  end if;
  if not webhookpub.is_event_id(p_event_id) then
    raise exception using
      errcode = 'WH001',
      message = format(
        'event id %L: it must be 1 to 200 visible ASCII characters without double quote and backslash',
        left(p_event_id, 210)
      ),
      hint = 'It travels as an HTTP header and in JSON. Leave it out to get one made.';
  end if;
  if length(p_ordering_key) not between 1 and 200 then
    raise exception using
      errcode = 'WH006',
      message = format(
        'ordering key %L: it must be 1 to 200 characters', left(p_ordering_key, 40)
      ),
      hint = 'It names what the event is about, such as an order''s id. Null: there is no order.';
  end if;
  if p_label_count > 1000 then
    raise exception using
      errcode = 'WH003',
      message = format('event with %s labels: it may have at most 1000', p_label_count),
      hint = 'A filter by labels looks at each of them.';
  end if;
  if p_bytes > v_settings.max_payload_bytes then
    raise exception using
      errcode = 'WH003',
      message = format(
        'event of %s bytes is over the limit of %s', p_bytes, v_settings.max_payload_bytes
      ),
      hint = 'Send a reference instead, or raise webhookpub.settings.max_payload_bytes.';
  end if;
  -- Looked up anew: the other may have committed while this one waited for it.
  select e.user_id into v_owner from webhookpub.events as e where e.id = p_event_id;
  if v_owner <> p_user_id then
    raise exception using
      errcode = 'WH004',
      message = format('event id %L belongs to another user than %L', p_event_id, p_user_id),
      hint = 'Make the id, message_id or dedup_key unique over all users.';
  end if;
  return case when v_owner is not null then true end;
end;
$$;

comment on function webhookpub.refuse_event (text, text, jsonb, text, text, integer, integer) is
  'Raises why an event was not written: WH001 to WH006; true when it was there already, false when publishing is off, null when it can be written now.';
