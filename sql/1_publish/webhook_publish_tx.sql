-- Publishes an event in the caller's transaction: it commits with the caller's data.
--
-- Called by  triggers and applications, before an irreversible side effect.
-- Locks      nothing that another publisher waits for, but for one that publishes the
--            very same id at this moment. Inserts one row, and nothing else.
-- Returns    the event id, also when it was there already; null when publishing is off.
-- Raises     WH001, WH002, WH003, WH004, WH005, WH006.
--
-- It runs in other people's transactions all the time, and PostgreSQL prepares every
-- expression, function call and column of a statement anew each time it is executed: that,
-- and not the insert, is what publishing costs. So there is one statement, it reads one
-- row, its condition is one CASE, which the planner leaves whole, and what event_id and
-- random_event_id say stands here once more. Only if it has written nothing is it worked out
-- why: whose the id is, if it is there, too. A look before the insert would also make
-- serializable transactions fail that have nothing to do with one another.
--
-- Events are kept for seconds, for fan-outs go by when they expire: now and then a day has 23 hours
-- in the caller's time zone, and of two days one month later may be the same.

create or replace function public.webhook_publish_tx (
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
  -- Or the insert is planned each time, which takes a third of all.
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_at constant timestamptz := clock_timestamp();
  v_id text := webhook_publish_tx.event_id;
  v_is_id boolean := true;
  v_envelope text;
  v_asleep boolean;
  v_is_known boolean;
begin
  if v_id is null then
    if coalesce(webhook_publish_tx.message_id, webhook_publish_tx.dedup_key) is null then
      v_id := webhookpub.random_event_id();
    else
      v_id := 'evt_' || encode(substr(sha256(convert_to(concat_ws(
        '|', webhook_publish_tx.message_id, webhook_publish_tx.event_type, webhook_publish_tx.dedup_key
      ), 'UTF8')), 1, 16), 'hex');
    end if;
  else
    v_is_id := webhookpub.is_event_id(v_id);
  end if;
  -- Neither the type nor the id can hold what JSON would have to escape.
  v_envelope := format(
    '{"event": "%s", "id": "%s", "created_at": "%s", "data": %s}',
    webhook_publish_tx.event_type, v_id, webhookpub.rfc3339(v_at), webhook_publish_tx.data
  );

  insert into webhookpub.events
    (id, user_id, pending_user_id, type, agent_id, conversation_id, message_id, labels,
     ordering_key, envelope, created_at, expires_at)
  select
    v_id, webhook_publish_tx.user_id, webhook_publish_tx.user_id, webhook_publish_tx.event_type,
    webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id, webhook_publish_tx.message_id,
    coalesce(webhook_publish_tx.labels, '{}'), webhook_publish_tx.ordering_key, v_envelope, v_at,
    v_at + make_interval(secs => extract(epoch from s.event_retention)::double precision)
  from webhookpub.settings as s
  where case
    when s.publish_enabled
      and webhook_publish_tx.event_type = any (s.event_types)
      and v_is_id
    then webhook_publish_tx.data @> '{}' -- only an object contains that
      and webhook_publish_tx.user_id <> ''
      and (webhook_publish_tx.ordering_key = '') is not true
      and greatest(length(webhook_publish_tx.user_id), length(webhook_publish_tx.ordering_key)) <= 200
      and coalesce(cardinality(webhook_publish_tx.labels), 0) <= 1000
      and octet_length(concat(
        v_envelope, webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
        webhook_publish_tx.message_id, array_to_string(webhook_publish_tx.labels, ',', '')
      )) <= s.max_payload_bytes
  end
  on conflict (id) do nothing
  returning webhookpub.fan_out_is_asleep() into v_asleep;
  if not v_asleep then
    return v_id;
  elsif v_asleep then
    if webhookpub.notify_is_due() then
      notify webhook_events_new;
    end if;
  else
    v_is_known := webhookpub.refuse_event(
      webhook_publish_tx.event_type, webhook_publish_tx.user_id, webhook_publish_tx.data,
      v_id, webhook_publish_tx.ordering_key, cardinality(webhook_publish_tx.labels),
      octet_length(concat(
        v_envelope, webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
        webhook_publish_tx.message_id, array_to_string(webhook_publish_tx.labels, ',', '')
      ))
    );
    if v_is_known is null then
      -- What spoke against it is gone since: its type has come, or publishing is on again.
      return public.webhook_publish_tx(
        webhook_publish_tx.event_type, webhook_publish_tx.user_id, webhook_publish_tx.data,
        webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id, webhook_publish_tx.labels,
        webhook_publish_tx.message_id, webhook_publish_tx.dedup_key, webhook_publish_tx.event_id,
        webhook_publish_tx.ordering_key
      );
    elsif not v_is_known then
      return null;
    end if;
  end if;
  return v_id;
end;
$$;

comment on function public.webhook_publish_tx
  (text, text, jsonb, text, text, text[], text, text, text, text) is
  'Publishes an event in your transaction, or raises (WH001 to WH006). Returns its id; an id that is there already is a no-op. In PL/pgSQL: perform webhook_publish_tx(...).';
