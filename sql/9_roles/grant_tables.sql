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
declare
  v_table text;
  v_policy text;
begin
  revoke all on all tables in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant select on
    webhookpub.event_types, webhookpub.webhooks, webhookpub.events, webhookpub.envelopes,
    webhookpub.delivery_history, webhookpub.queue, webhookpub.deliveries,
    webhookpub.attempts, webhookpub.publish_failures,
    webhookpub.tenants, webhookpub.envelopes_by_event, webhookpub.event_log,
    webhookpub.delivery_log, webhookpub.webhook_health
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
  -- What is not about one user alone.
  grant select on
    webhookpub.settings, webhookpub.backlog, webhookpub.metrics, webhookpub.attempts_recorded,
    webhookpub.upkeep, webhookpub.jobs, webhookpub.sessions, webhookpub.partitions
  to webhookpub_operator, webhookpub_readonly;

  -- For deliveries.expires_at.
  grant select (delivery_retention) on webhookpub.settings to webhookpub_tenant;

  -- Neither where webhooks may point nor for how long things are kept.
  grant update (
    publish_enabled, deliver_enabled, max_payload_bytes, max_webhooks_per_user, request_timeout,
    auto_disable_after, auto_disable_min_failures
  ) on webhookpub.settings to webhookpub_operator;
  grant insert on webhookpub.event_types to webhookpub_operator;

  foreach v_table in array array[
    'webhooks', 'events', 'envelopes', 'delivery_history', 'queue', 'attempts',
    'publish_failures', 'tenants'
  ]
  loop
    v_policy := v_table || '_of_all_users';
    continue when exists (
      select
      from pg_policy as p
      where p.polrelid = format('webhookpub.%I', v_table)::regclass and p.polname = v_policy
    );
    execute format(
      'create policy %I on webhookpub.%I
         for select to webhookpub_operator, webhookpub_readonly using (true)',
      v_policy, v_table
    );
  end loop;
end;
$$;

comment on function webhookpub.grant_tables () is
  'Gives each role webhookpub_* the tables and views that it may read, and no others.';
