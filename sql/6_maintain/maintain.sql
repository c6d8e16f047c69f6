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
  v_settings webhookpub.settings;
  v_expired record;
  v_changed boolean;
begin
  if not pg_try_advisory_xact_lock(2003006834, 1) then
    return;
  end if;
  select s.* into v_settings from webhookpub.settings as s;

  return query values
    ('disable_failing', webhookpub.disable_failing(v_now)),
    ('cancel_deleted', webhookpub.cancel_deleted()),
    ('delete_failed_jobs', webhookpub.delete_failed_jobs(v_now));

  task := 'expire_secrets';
  delete from webhookpub.secrets as s
  where s.id = any (array(
    select x.id from webhookpub.secrets as x where x.expires_at <= v_now for update skip locked
  ));
  get diagnostics affected = row_count;
  return next;

  v_expired := webhookpub.delete_expired(5000, v_now);
  return query values
    ('delete_events', v_expired.events),
    ('delete_deliveries', v_expired.deliveries);

  -- The locks of one table only, in one round: with them held, it never waits for another.
  task := 'drop_partitions';
  affected := webhookpub.drop_partitions(
    'webhookpub.envelopes', v_now - v_settings.event_retention
  );
  if affected = 0 then
    affected := webhookpub.drop_partitions(
      'webhookpub.attempts', v_now - v_settings.attempt_retention
    );
  end if;
  v_changed := affected > 0;
  return next;

  task := 'create_partitions';
  affected := 0;
  if not v_changed then
    affected := webhookpub.create_partitions('webhookpub.envelopes', p_limit => 1);
    if affected = 0 then
      affected := webhookpub.create_partitions('webhookpub.attempts', p_limit => 1);
    end if;
    v_changed := affected > 0;
  end if;
  return next;
  if v_changed then
    perform set_config('idle_in_transaction_session_timeout', '5s', true);
  end if;
  update webhookpub.upkeep as u set finished_at = clock_timestamp();
end;
$$;

comment on function webhookpub.maintain () is
  'One round of upkeep: disables failing webhooks, removes what has expired, keeps the partitions. Returns what it did.';
