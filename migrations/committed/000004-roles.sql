--! Previous: sha1:97deb78fcb920c5c2ba59498a61efed1eaac4f46
--! Hash: sha1:87e586863c66a0d7cc01ad6357274523036f9ec7
--! Message: roles

-- Roles, what each may do, and row-level security.
--
-- This file may be run again at any time, by the role that installed webhookpub: after
-- the roles were created by somebody else, or after graphile-worker's schema was upgraded.
-- It then grants what is missing, and changes nothing else.

set local check_function_bodies = off;

create table if not exists webhookpub.tenants (
  role_name name primary key,
  user_id text
);
comment on table webhookpub.tenants is
  'Whose rows a role that is a member of webhookpub_tenant may see. Roles without a row see none.';
comment on column webhookpub.tenants.role_name is 'As people connect with it, or set it.';
comment on column webhookpub.tenants.user_id is
  'Its user. Null: the role is trusted to say so by the setting webhookpub.user_id.';

--! Included 7_inspect/tenant_user_id.sql
-- Says whose rows a tenant's session may see.
--
-- Called by  the row-level security policies of webhookpub_tenant, once a statement.
-- Returns    the user's id, as webhookpub.tenants has it for whoever connected, else for
--            the role that was set; null, and then nothing is visible, without a row.
--            Only for a role whose row has no user, the setting webhookpub.user_id counts.
--
-- It runs with the rights of its caller, or current_user would not be the caller's; and its
-- body is parsed here, so that no search_path of the caller's can change what it means.

create or replace function webhookpub.tenant_user_id ()
  returns text
  language sql
  stable
return (
  select coalesce(t.user_id, nullif(current_setting('webhookpub.user_id', true), ''))
  from webhookpub.tenants as t
  where t.role_name in (session_user, current_user)
  order by t.role_name = session_user desc
  limit 1
);

comment on function webhookpub.tenant_user_id () is
  'The user whose rows this session may see as webhookpub_tenant; null for none.';
--! EndIncluded 7_inspect/tenant_user_id.sql

revoke execute on function webhookpub.tenant_user_id () from public;

do $$
declare
  -- Without headers: they may carry credentials of the receiver.
  v_webhooks constant text :=
    '(id, user_id, url, description, events, filters, signature_scheme, enabled,'
    ' disabled_at, disabled_reason, max_in_flight, request_timeout, retry_schedule,'
    ' created_at, last_delivered_at, failing_since, failures, deleted_at)'
    ' on webhookpub.webhooks';
  -- Without allow_http and allowed_networks: what is open is for the owner alone.
  v_settings constant text :=
    '(publish_enabled, max_payload_bytes, max_webhooks_per_user, request_timeout,'
    ' event_retention, delivery_retention, attempt_retention, auto_disable_after,'
    ' auto_disable_min_failures) on webhookpub.settings';
  v_own constant text := 'user_id = (select webhookpub.tenant_user_id())';
  -- An array, which is made once, and can be looked up in an index.
  v_own_webhook constant text :=
    'webhook_id = any (array(select w.id from webhookpub.webhooks as w where w.' || v_own || '))';
  v_task constant text := 'in (''webhook_fan_out'', ''webhook_deliver'', ''webhook_maintain'')';
  v_role text;
  v_table regclass;
  v_privileges text[];
  v_privilege text;
  v_using text;
begin
  -- Nobody sees a row but the owner and those whom a policy lets in.
  foreach v_table in array array[
    'webhookpub.webhooks', 'webhookpub.secrets', 'webhookpub.events', 'webhookpub.envelopes',
    'webhookpub.deliveries', 'webhookpub.attempts', 'webhookpub.publish_failures',
    'webhookpub.tenants'
  ]::regclass[] loop
    perform from pg_class as c where c.oid = v_table and c.relrowsecurity;
    if not found then
      execute format('alter table %s enable row level security', v_table);
    end if;
  end loop;

  for v_role, v_privileges in values
    ('webhookpub_publisher', array[
      'execute on function public.webhook_publish_tx',
      'execute on function public.webhook_publish_best_effort_tx',
      'execute on function public.webhook_publish'
    ]),
    ('webhookpub_worker', array[
      'usage on schema webhookpub',
      'execute on function webhookpub.version',
      'execute on function webhookpub.closed_networks',
      'execute on function webhookpub.wake',
      'execute on function webhookpub.enter_fan_out',
      'execute on function webhookpub.leave_fan_out',
      'execute on function webhookpub.fan_out',
      'execute on function webhookpub.lease_deliveries',
      'execute on function webhookpub.record_attempts',
      'execute on function webhookpub.maintain',
      -- What graphile-worker's runner does by itself.
      'usage on schema graphile_worker',
      'select on graphile_worker.migrations',
      'select, insert, update, delete on graphile_worker._private_jobs',
      'select, insert, update on graphile_worker._private_job_queues',
      'select, insert on graphile_worker._private_tasks',
      'select, insert, update on graphile_worker._private_known_crontabs'
    ]),
    ('webhookpub_operator', array[
      'usage on schema webhookpub',
      'execute on function webhookpub.create_webhook',
      'execute on function webhookpub.update_webhook',
      'execute on function webhookpub.enable_webhook',
      'execute on function webhookpub.disable_webhook',
      'execute on function webhookpub.delete_webhook',
      'execute on function webhookpub.rotate_secret',
      'execute on function webhookpub.test_webhook',
      'execute on function webhookpub.redeliver',
      'execute on function webhookpub.redeliver_since',
      'execute on function webhookpub.retry_publish_failures',
      'execute on function webhookpub.fan_out',
      'execute on function webhookpub.maintain',
      'update ' || v_settings,
      'insert (name, description) on webhookpub.event_types'
    ]),
    ('webhookpub_tenant', array[
      'usage on schema webhookpub',
      'execute on function webhookpub.tenant_user_id',
      'select ' || v_webhooks,
      'select ' || v_settings,
      'select on webhookpub.tenants',
      'select on webhookpub.event_types',
      'select on webhookpub.events',
      'select on webhookpub.envelopes',
      'select on webhookpub.deliveries',
      'select on webhookpub.attempts',
      'select on webhookpub.publish_failures',
      'select on webhookpub.event_log',
      'select on webhookpub.delivery_log',
      'select on webhookpub.webhook_health',
      'select on webhookpub.backlog',
      'select on webhookpub.envelopes_by_event'
    ]),
    ('webhookpub_readonly', null)
  loop
    begin
      if to_regrole(v_role) is null then
        execute format('create role %I nologin', v_role);
      end if;
    exception
      when insufficient_privilege then
        raise warning 'role % is missing: it may not be created by %', v_role, current_user
          using hint = 'See "If the roles are missing" in docs/security.md.';
        continue;
      when duplicate_object or unique_violation then
        -- Another installation in this cluster has just created it.
        null;
    end;
    -- Whoever may steer sees what whoever may only look sees.
    if v_role in ('webhookpub_operator', 'webhookpub_readonly') then
      v_privileges := v_privileges || array[
        'usage on schema webhookpub',
        'execute on function webhookpub.explain_event',
        'execute on function webhookpub.version',
        'execute on function webhookpub.event_id',
        'execute on function webhookpub.is_valid_event_type',
        'select ' || v_webhooks,
        'select on webhookpub.settings',
        'select on webhookpub.tenants',
        'select on webhookpub.event_types',
        'select on webhookpub.events',
        'select on webhookpub.envelopes',
        'select on webhookpub.deliveries',
        'select on webhookpub.attempts',
        'select on webhookpub.publish_failures',
        'select on webhookpub.event_log',
        'select on webhookpub.delivery_log',
        'select on webhookpub.webhook_health',
        'select on webhookpub.backlog',
        'select on webhookpub.metrics',
        'select on webhookpub.envelopes_by_event'
      ];
    end if;
    foreach v_privilege in array v_privileges loop
      execute format('grant %s to %I', v_privilege, v_role);
    end loop;
  end loop;

  for v_role, v_table, v_using in
    select p.role, p.table_name::regclass, p.row_condition
    from (
      values
        ('webhookpub_tenant', 'webhookpub.webhooks', v_own),
        ('webhookpub_tenant', 'webhookpub.events', v_own),
        ('webhookpub_tenant', 'webhookpub.envelopes', v_own),
        ('webhookpub_tenant', 'webhookpub.publish_failures', v_own),
        ('webhookpub_tenant', 'webhookpub.deliveries', v_own_webhook),
        ('webhookpub_tenant', 'webhookpub.attempts', v_own_webhook),
        ('webhookpub_tenant', 'webhookpub.tenants', 'role_name in (session_user, current_user)'),
        -- Only its own jobs: those of the application may hold what is none of its business.
        ('webhookpub_worker', 'graphile_worker._private_tasks', 'identifier ' || v_task),
        ('webhookpub_worker', 'graphile_worker._private_known_crontabs', 'identifier ' || v_task),
        (
          'webhookpub_worker', 'graphile_worker._private_jobs',
          'task_id = any (array(select t.id from graphile_worker._private_tasks as t'
            ' where t.identifier ' || v_task || '))'
        )
    ) as p (role, table_name, row_condition)
    union all
    select r.role, t.table_name::regclass, 'true'
    from (values ('webhookpub_operator'), ('webhookpub_readonly')) as r (role)
    cross join (
      values
        ('webhookpub.webhooks'), ('webhookpub.events'), ('webhookpub.envelopes'),
        ('webhookpub.deliveries'), ('webhookpub.attempts'), ('webhookpub.publish_failures'),
        ('webhookpub.tenants')
    ) as t (table_name)
  loop
    continue when to_regrole(v_role) is null;
    perform from pg_policy as p where p.polrelid = v_table and p.polname = v_role;
    if not found then
      execute format(
        'create policy %I on %s for %s to %I using (%s)',
        v_role, v_table,
        case v_role when 'webhookpub_worker' then 'all' else 'select' end,
        v_role, v_using
      );
    end if;
  end loop;
end;
$$;
