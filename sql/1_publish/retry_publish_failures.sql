-- Publishes what the best-effort path could not, once its cause is gone.
--
-- Called by  psql, applications.
-- Locks      the failures that it takes, skipping those that somebody else has.
-- Returns    how many were published; they are removed from publish_failures.
--
-- What fails again keeps its new error and goes to the end of the line, so that it holds
-- up nothing. While publishing is switched off, nothing is tried.

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
  for v_failure in
    select f.*
    from webhookpub.publish_failures as f
    order by f.retried_at nulls first, f.id
    limit p_limit
    for update skip locked
  loop
    begin
      exit when public.webhook_publish_tx(
        v_failure.event_type, v_failure.user_id, v_failure.data, v_failure.agent_id,
        v_failure.conversation_id, v_failure.labels, v_failure.message_id,
        v_failure.dedup_key, v_failure.event_id
      ) is null;
      delete from webhookpub.publish_failures as f where f.id = v_failure.id;
      v_count := v_count + 1;
    exception when others then
      get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text;
      update webhookpub.publish_failures as f
      set sqlstate = v_sqlstate, message = v_message, retried_at = clock_timestamp()
      where f.id = v_failure.id;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.retry_publish_failures (integer) is
  'Tries to publish up to p_limit rows of publish_failures, those not yet retried first; returns how many went through.';
