-- Says which role may call which function.
--
-- Called by  webhookpub.install_roles.
--
-- A function that stands here for nobody is called by other functions only.

create or replace function webhookpub.grant_functions ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  grant usage on schema webhookpub to
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;
  revoke all on all functions in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant execute on function
    public.webhook_publish_tx, public.webhook_publish_best_effort_tx, public.webhook_publish,
    webhookpub.publish_row,
    webhookpub.random_event_id
  to webhookpub_publisher;

  grant execute on function
    webhookpub.closed_networks,
    webhookpub.wake, webhookpub.enter_fan_out, webhookpub.leave_fan_out, webhookpub.fan_out,
    webhookpub.fan_out_batch, webhookpub.lease_deliveries, webhookpub.lease_requests,
    webhookpub.release_deliveries, webhookpub.record_attempts, webhookpub.maintain,
    webhookpub.read_metrics
  to webhookpub_worker;

  -- The secret that create_webhook and rotate_secret make is shown to their caller; no
  -- function shows one that exists.
  grant execute on function
    webhookpub.create_webhook, webhookpub.update_webhook, webhookpub.rotate_secret,
    webhookpub.enable_webhook, webhookpub.disable_webhook, webhookpub.delete_webhook,
    webhookpub.redeliver, webhookpub.redeliver_since, webhookpub.test_webhook, webhookpub.skip,
    webhookpub.retry_publish_failures, webhookpub.register_event_types,
    webhookpub.fan_out, webhookpub.maintain
  to webhookpub_operator;

  -- What explain_event calls runs as its caller, so that it shows what its caller may see.
  grant execute on function
    webhookpub.explain_event, webhookpub.stored_envelope, webhookpub.type_patterns,
    webhookpub.unmatched_clause, webhookpub.data_holds, webhookpub.current_user_id
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  -- What a delivery waits for, in delivery_log and webhook_health.
  grant execute on function webhookpub.webhook_waits_for, webhookpub.webhook_waits
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.event_id, webhookpub.is_valid_event_type
  to webhookpub_publisher, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  -- The read_* are behind views.
  grant execute on function
    webhookpub.check_privileges, webhookpub.diagnose, webhookpub.read_jobs,
    webhookpub.read_sessions, webhookpub.read_partitions
  to webhookpub_operator, webhookpub_readonly;

  grant execute on function webhookpub.version, webhookpub.last_migration
  to webhookpub_worker, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
end;
$$;

comment on function webhookpub.grant_functions () is
  'Gives each role webhookpub_* the functions that it may call, and no others.';
