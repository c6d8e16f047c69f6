-- Sends a webhook one made-up event, outside the event log and tried only once.
--
-- Called by  applications, psql.
-- Returns    the delivery's id; null when publishing is switched off.
-- Raises     WH002, WH020, WH021.

create or replace function webhookpub.test_webhook (
  p_webhook_id text,
  p_event_type text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook constant webhookpub.webhooks := webhookpub.enabled_webhook(p_webhook_id);
  v_now constant timestamptz := clock_timestamp();
  v_id constant text := 'whd_' || webhookpub.random_hex();
  -- What it listens to, by its own name if possible; else anything of the catalog.
  v_event_type constant text := coalesce(p_event_type, (
    select t.name
    from webhookpub.event_types as t
    order by
      array_position(v_webhook.events, t.name),
      v_webhook.events && webhookpub.type_patterns(t.name) desc,
      t.name
    limit 1
  ));
  v_event record;
begin
  v_event := webhookpub.compose_event(
    v_event_type, v_webhook.user_id,
    jsonb_build_object('test', true, 'webhook_id', v_webhook.id),
    null, null, '{}', null, null, v_now, null
  );
  if v_event.event_id is null then
    return null;
  end if;

  insert into webhookpub.envelopes (event_id, created_at, user_id, body)
  values (v_event.event_id, v_now, v_webhook.user_id, v_event.envelope);
  insert into webhookpub.deliveries
    (id, webhook_id, event_id, event_type, event_created_at, replay_id, max_attempts,
     next_attempt_at, created_at, expires_at)
  select
    v_id, v_webhook.id, v_event.event_id, v_event_type, v_now,
    'test_' || webhookpub.random_hex(), 1, v_now, v_now, v_now + s.delivery_retention
  from webhookpub.settings as s;
  perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  return v_id;
end;
$$;

comment on function webhookpub.test_webhook (text, text) is
  'Sends a webhook one made-up event, with {"test": true} in its data, tried once; returns the delivery''s id. Raises WH002, WH020, WH021.';
