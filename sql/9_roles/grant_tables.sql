-- Says which role may read which table and view, and the little that it may write.
--
-- Called by  webhookpub.install_roles.
-- Locks      the tables with row-level security, for an instant, the first time only.
--
-- Not here: the secrets, and partitions, which would show the rows of everybody.

create or replace function webhookpub.grant_tables ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  revoke all on all tables in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant select on
    webhookpub.event_types, webhookpub.webhooks, webhookpub.events, webhookpub.envelopes,
    webhookpub.deliveries, webhookpub.attempts, webhookpub.publish_failures,
    webhookpub.tenants, webhookpub.envelopes_by_event, webhookpub.event_log,
    webhookpub.delivery_log, webhookpub.webhook_health
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
  -- What is not about one user alone.
  grant select on
    webhookpub.settings, webhookpub.backlog, webhookpub.metrics, webhookpub.attempts_recorded
  to webhookpub_operator, webhookpub_readonly;

  -- Neither where webhooks may point nor for how long things are kept.
  grant update (
    publish_enabled, max_payload_bytes, max_webhooks_per_user, request_timeout,
    auto_disable_after, auto_disable_min_failures
  ) on webhookpub.settings to webhookpub_operator;
  grant insert on webhookpub.event_types to webhookpub_operator;

  if not exists (
    select
    from pg_policy as p
    where p.polrelid = 'webhookpub.webhooks'::regclass and p.polname = 'webhooks_of_all_users'
  ) then
    create policy webhooks_of_all_users on webhookpub.webhooks
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy events_of_all_users on webhookpub.events
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy envelopes_of_all_users on webhookpub.envelopes
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy deliveries_of_all_users on webhookpub.deliveries
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy attempts_of_all_users on webhookpub.attempts
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy publish_failures_of_all_users on webhookpub.publish_failures
      for select to webhookpub_operator, webhookpub_readonly using (true);
    create policy tenants_of_all_users on webhookpub.tenants
      for select to webhookpub_operator, webhookpub_readonly using (true);
  end if;
end;
$$;

comment on function webhookpub.grant_tables () is
  'Gives each role webhookpub_* the tables and views that it may read, and no others.';
