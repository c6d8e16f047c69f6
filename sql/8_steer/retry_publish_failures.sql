-- Publishes what the best-effort path could not, as far as it can be published now.
--
-- Called by  psql, applications.
-- Locks      the failures that it takes, skipping those that somebody else has.
-- Returns    how many were published. What fails again stays, with its new error, and
--            goes behind those that were not tried for longer.

create or replace function webhookpub.retry_publish_failures (
  p_limit integer default 100
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_failure webhookpub.publish_failures;
  v_sqlstate text;
  v_message text;
  v_count bigint := 0;
begin
  perform from webhookpub.settings as s where s.publish_enabled;
  if not found then
    return 0;
  end if;
  for v_failure in
    select f.*
    from webhookpub.publish_failures as f
    order by f.tried_at, f.id
    limit greatest(p_limit, 0)
    for update skip locked
  loop
    begin
      perform public.webhook_publish_tx(
        v_failure.event_type, v_failure.user_id, v_failure.data, v_failure.agent_id,
        v_failure.conversation_id, v_failure.labels, v_failure.message_id,
        v_failure.dedup_key, v_failure.event_id, v_failure.ordering_key
      );
      delete from webhookpub.publish_failures as f where f.id = v_failure.id;
      v_count := v_count + 1;
    exception when others then
      get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text;
      update webhookpub.publish_failures as f
      set sqlstate = v_sqlstate, message = v_message, tried_at = clock_timestamp()
      where f.id = v_failure.id;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.retry_publish_failures (integer) is
  'Publishes up to p_limit of webhookpub.publish_failures; what still fails stays, with its new error. Returns how many were published.';
