-- Sends a webhook an event that has not happened, to see whether it gets through.
--
-- Called by  psql, applications.
-- Returns    the id of the delivery. There is one attempt, and no row in events.
-- Raises     WH002, WH020, WH021.
--
-- Its attempt counts for the webhook's health like any other; that it failed is told to
-- nobody else.

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
  v_now constant timestamptz := clock_timestamp();
  v_webhook constant webhookpub.webhooks := webhookpub.find_webhook(p_webhook_id, true);
  v_event_id constant text := webhookpub.random_event_id();
  v_delivery_id constant text := webhookpub.delivery_id(v_now);
  v_type text;
begin
  -- By default something that it listens to: what it names first, then what it includes.
  select t.name into v_type
  from webhookpub.event_types as t
  where case
    when p_event_type is not null then t.name = p_event_type
    else v_webhook.events && webhookpub.type_patterns(t.name)
  end
  order by array_position(v_webhook.events, t.name), t.name like 'webhook.%', t.name
  limit 1;
  if not found then
    raise exception using
      errcode = 'WH002',
      message = case
        when p_event_type is null
          then format('webhook %L listens to no event type of the catalog', v_webhook.id)
        else format('event type %L is not in the catalog', left(p_event_type, 100))
      end,
      hint = 'List it with: table webhookpub.event_types; name one as p_event_type.';
  end if;

  insert into webhookpub.envelopes (event_id, created_at, user_id, body)
  values (
    v_event_id, v_now, v_webhook.user_id,
    '{"event": "' || v_type || '", "id": "' || v_event_id
      || '", "created_at": "' || webhookpub.rfc3339(v_now)
      || '", "data": {"test": true, "message": "A test by webhookpub: this has not happened."}}'
  );
  insert into webhookpub.delivery_history
    (id, webhook_id, event_id, event_type, event_created_at, replay_id, max_attempts, created_at)
  values (
    v_delivery_id, v_webhook.id, v_event_id, v_type, v_now, 'test_' || webhookpub.random_hex(),
    1, v_now
  );
  insert into webhookpub.queue (delivery_id, webhook_id, due_at)
  values (v_delivery_id, v_webhook.id, v_now);
  perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  return v_delivery_id;
end;
$$;

comment on function webhookpub.test_webhook (text, text) is
  'Sends a webhook one test delivery, of a type that it listens to by default; returns its id. Raises WH002, WH020, WH021.';
