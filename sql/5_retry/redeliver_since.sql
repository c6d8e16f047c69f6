-- Sends a webhook again what was published for it in some time: in one statement, however
-- much that is. It drains as everything does, within the webhook's max_in_flight.
--
-- Called by  psql, applications.
-- Returns    how many deliveries were queued; a dry run only counts.
-- Raises     WH020, WH021.

create or replace function webhookpub.redeliver_since (
  p_webhook_id text,
  p_since timestamptz,
  p_until timestamptz default now(),
  p_only_failed boolean default true,
  p_dry_run boolean default false
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook constant webhookpub.webhooks := webhookpub.enabled_webhook(p_webhook_id);
  v_now constant timestamptz := clock_timestamp();
  v_count bigint;
begin
  if p_dry_run then
    select count(*) into v_count
    from webhookpub.replayable_events(v_webhook, p_since, p_until, p_only_failed);
    return v_count;
  end if;

  insert into webhookpub.deliveries
    (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
     max_attempts, next_attempt_at, created_at, expires_at)
  select
    'whd_' || webhookpub.random_hex(), v_webhook.id, r.event_id, r.event_type,
    r.event_created_at, r.message_id, 'rep_' || webhookpub.random_hex(),
    cardinality(v_webhook.retry_schedule) + 1, v_now, v_now, v_now + s.delivery_retention
  from webhookpub.replayable_events(v_webhook, p_since, p_until, p_only_failed) as r
  cross join webhookpub.settings as s
  order by r.event_id
  on conflict (event_id, webhook_id) where replay_id is not null and status = 'pending'
    do nothing;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  end if;
  return v_count;
end;
$$;

comment on function webhookpub.redeliver_since
  (text, timestamptz, timestamptz, boolean, boolean) is
  'Sends a webhook again what was published for it from p_since to before p_until, unless it is pending: all, or only what failed; returns how many. Raises WH020, WH021.';
