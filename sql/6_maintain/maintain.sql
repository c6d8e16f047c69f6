-- One round of upkeep. With nothing to do it costs almost nothing.
--
-- Called by  the task webhook_maintain, once a minute (webhookpub.wake) until nothing is left
--            to do; psql.
-- Locks      one advisory lock, so that rounds do not meet; a second one does nothing. No
--            row of an application's is waited for: what it holds is left to the next round.
--            A round that has made or dropped a partition holds up others until it commits:
--            if it is left open, PostgreSQL ends its session after 5 s.
-- Returns    what was done and to how many.

create or replace function webhookpub.maintain ()
  returns table (
    task text,
    affected bigint
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_expired record;
  v_partitions record;
begin
  if not pg_try_advisory_xact_lock(2003006834, 1) then
    return;
  end if;
  return query values
    ('disable_failing', webhookpub.disable_failing(v_now)),
    ('cancel_deleted', webhookpub.cancel_deleted(v_now)),
    ('delete_failed_jobs', webhookpub.delete_failed_jobs(v_now)),
    ('expire_secrets', webhookpub.expire_secrets(v_now));

  v_expired := webhookpub.delete_expired(5000, v_now);
  return query values
    ('delete_events', v_expired.events),
    ('delete_deliveries', v_expired.deliveries),
    ('delete_webhooks', webhookpub.delete_webhooks(1000, v_now));

  v_partitions := webhookpub.keep_partitions(v_now);
  return query values
    ('drop_partitions', v_partitions.dropped),
    ('create_partitions', v_partitions.created);
  if v_partitions.dropped + v_partitions.created > 0 then
    perform set_config('idle_in_transaction_session_timeout', '5s', true);
  end if;
  update webhookpub.upkeep as u set finished_at = clock_timestamp();
end;
$$;

comment on function webhookpub.maintain () is
  'One round of upkeep: disables failing webhooks, removes what has expired, keeps the partitions. Returns what it did.';
