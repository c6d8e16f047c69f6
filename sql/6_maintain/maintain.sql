-- One round of upkeep. With nothing to do it costs almost nothing.
--
-- Called by  the task webhook_maintain, once a minute; psql.
-- Locks      one advisory lock, so that rounds do not meet; a second one does nothing.
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
  v_settings webhookpub.settings;
  v_expired record;
begin
  if not pg_try_advisory_xact_lock(2003006834, 1) then
    return;
  end if;
  select s.* into v_settings from webhookpub.settings as s;
  perform webhookpub.wake();

  return query values
    ('disable_failing', webhookpub.disable_failing(v_now)),
    ('cancel_deleted', webhookpub.cancel_deleted()),
    ('delete_failed_jobs', webhookpub.delete_failed_jobs(v_now));

  task := 'expire_secrets';
  delete from webhookpub.secrets as s where s.expires_at <= v_now;
  get diagnostics affected = row_count;
  return next;

  v_expired := webhookpub.delete_expired(5000, v_now);
  return query values
    ('delete_events', v_expired.events),
    ('delete_deliveries', v_expired.deliveries),
    ('create_partitions',
      webhookpub.create_partitions('webhookpub.envelopes')
        + webhookpub.create_partitions('webhookpub.attempts')),
    ('drop_partitions',
      webhookpub.drop_partitions(
        'webhookpub.envelopes', v_now - v_settings.event_retention
      ) + webhookpub.drop_partitions(
        'webhookpub.attempts', v_now - v_settings.attempt_retention
      ));
end;
$$;

comment on function webhookpub.maintain () is
  'One round of upkeep: wakes what is due, disables failing webhooks, removes what has expired, keeps the partitions. Returns what it did.';
