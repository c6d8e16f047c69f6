--! Previous: sha1:23a950b36bc88f67097821efff202d8a29d99c41
--! Hash: sha1:fe253962f9a74ef816af29d07a9499665e3a5bbe
--! Message: roles

-- Who may do what: roles, and row-level security on all that belongs to a user. Owners and
-- the security definer functions, which run as the owner, are not affected by it.

create table webhookpub.tenants (
  role_name name primary key,
  user_id text,
  constraint tenants_user_id_has_1_to_200_characters check (length(user_id) between 1 and 200)
);
comment on table webhookpub.tenants is
  'Which user a role sees as a tenant. A role that is not here sees nothing as one.';
comment on column webhookpub.tenants.role_name is
  'A role, usually one that can log in; it also needs to be a member of webhookpub_tenant.';
comment on column webhookpub.tenants.user_id is
  'Its user. Null: the one that the setting webhookpub.user_id names, for a role whose SQL is all your application''s.';

--! Included 0_roles/current_user_id.sql
-- Says which user a tenant's session may see: the one that its role is bound to, or, where
-- the role is trusted to choose, the one that the setting webhookpub.user_id names.
--
-- Called by  the row-level security policies, once a query.
-- Returns    null for a role that is not in webhookpub.tenants: then no row is its own.
--
-- A login role that is bound stays bound whatever role it changes to. The body is parsed
-- once, here, so that no search_path of the session can change what it says.

create or replace function webhookpub.current_user_id ()
  returns text
  language sql
  stable
  parallel safe
return (
  select coalesce(t.user_id, nullif(current_setting('webhookpub.user_id', true), ''))
  from webhookpub.tenants as t
  where t.role_name in (current_user, session_user)
  order by t.user_id is null, t.role_name <> current_user
  limit 1
);

comment on function webhookpub.current_user_id () is
  'The user whose rows this session sees as a tenant; null when it is nobody''s.';
--! EndIncluded 0_roles/current_user_id.sql

alter table webhookpub.tenants enable row level security;
alter table webhookpub.webhooks enable row level security;
alter table webhookpub.events enable row level security;
alter table webhookpub.envelopes enable row level security;
alter table webhookpub.deliveries enable row level security;
alter table webhookpub.attempts enable row level security;
alter table webhookpub.publish_failures enable row level security;

-- They count for whoever may read a table and is not its owner.
create policy tenants_of_own_role on webhookpub.tenants
  for select using (role_name in (current_user, session_user));
create policy webhooks_of_own_user on webhookpub.webhooks
  for select using (user_id = (select webhookpub.current_user_id()));
create policy events_of_own_user on webhookpub.events
  for select using (user_id = (select webhookpub.current_user_id()));
create policy envelopes_of_own_user on webhookpub.envelopes
  for select using (user_id = (select webhookpub.current_user_id()));
create policy publish_failures_of_own_user on webhookpub.publish_failures
  for select using (user_id = (select webhookpub.current_user_id()));
-- An array, because an index can look for it.
create policy deliveries_of_own_user on webhookpub.deliveries
  for select using (webhook_id = any (array(
    select w.id
    from webhookpub.webhooks as w
    where w.user_id = (select webhookpub.current_user_id())
  )));
create policy attempts_of_own_user on webhookpub.attempts
  for select using (webhook_id = any (array(
    select w.id
    from webhookpub.webhooks as w
    where w.user_id = (select webhookpub.current_user_id())
  )));

-- No policy: whatever somebody grants on them, and be it by default privileges, only their
-- owner reads them. A partition would else show the rows of everybody.
alter table webhookpub.secrets enable row level security;
do $$
declare
  v_partition regclass;
begin
  for v_partition in
    select i.inhrelid::regclass
    from pg_catalog.pg_inherits as i
    where i.inhparent in ('webhookpub.envelopes'::regclass, 'webhookpub.attempts'::regclass)
  loop
    execute format('alter table %s enable row level security', v_partition);
  end loop;
end;
$$;
--! Included 6_maintain/create_partitions.sql
-- Makes the daily partitions of a table ahead of time.
--
-- Called by  webhookpub.maintain; the migration that makes the first ones.
-- Locks      attaching is allowed beside inserts; it gives up after 200 ms and is tried
--            again in the next round, so that no publisher waits behind it.
-- Returns    how many were made.

create or replace function webhookpub.create_partitions (
  p_table regclass,
  p_days_ahead integer default 14,
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '200ms'
as $$
declare
  v_table text := (select c.relname from pg_class as c where c.oid = p_table);
  v_day date;
  v_name text;
  v_count bigint := 0;
begin
  for v_day in
    select g.day::date
    from generate_series(
      p_now::date - 1, p_now::date + p_days_ahead, interval '1 day'
    ) as g (day)
  loop
    v_name := v_table || to_char(v_day, '_YYYYMMDD');
    continue when to_regclass(format('webhookpub.%I', v_name)) is not null;
    begin
      execute format(
        'create table webhookpub.%I (like webhookpub.%I including all)', v_name, v_table
      );
      execute format(
        'comment on table webhookpub.%I is %L', v_name, format('%s of %s.', v_table, v_day)
      );
      -- Without a policy: it is read through its table only, whose policies then count.
      execute format('alter table webhookpub.%I enable row level security', v_name);
      execute format(
        'alter table webhookpub.%I attach partition webhookpub.%I for values from (%L) to (%L)',
        v_table, v_name, v_day::timestamptz, (v_day + 1)::timestamptz
      );
      v_count := v_count + 1;
    exception when lock_not_available or check_violation then
      raise warning 'partition % could not be made now: %', v_name, sqlerrm;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.create_partitions (regclass, integer, timestamptz) is
  'Makes the daily partitions (UTC) of envelopes or attempts from yesterday to p_days_ahead; returns how many.';
--! EndIncluded 6_maintain/create_partitions.sql

-- As its caller from now on: it explains what its caller may see.
--! Included 7_inspect/explain_event.sql
-- Says for every webhook of an event's user whether it matches, and if not, why.
--
-- Called by  psql, as whoever asks: an event that its caller may not see is not there.
-- Returns    one row a webhook, in the order of their creation. Once fan-out has decided,
--            matched is its decision; if the webhook has changed since, reason says so.
-- Raises     WH020.

create or replace function webhookpub.explain_event (
  event_id text
)
  returns table (
    webhook_id text,
    matched boolean,
    reason text
  )
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_event webhookpub.events;
  v_data jsonb;
begin
  select e.* into v_event from webhookpub.events as e where e.id = explain_event.event_id;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format('no such event: %s', coalesce(quote_literal(explain_event.event_id), 'null')),
      hint = 'Events are kept for settings.event_retention.';
  end if;
  v_data := coalesce(
    v_event.envelope, webhookpub.stored_envelope(v_event.id, v_event.created_at)
  )::jsonb -> 'data';

  return query
  select
    w.id,
    case v_event.status
      when 'pending' then u.clause is null
      else w.id = any (v_event.matched_webhook_ids)
    end,
    case
      when v_event.status = 'pending' or (u.clause is null) = (w.id = any (v_event.matched_webhook_ids))
        then coalesce(u.clause, 'every clause holds')
      when u.clause is null
        then 'every clause holds now; the webhook is newer than the decision, or has changed'
      else 'matched when it was fanned out; now ' || u.clause
    end
  from webhookpub.webhooks as w
  cross join lateral (
    select webhookpub.unmatched_clause(
      w, v_event, webhookpub.type_patterns(v_event.type), v_data
    )
  ) as u (clause)
  where w.user_id = v_event.user_id
  order by w.created_at, w.id;
end;
$$;

comment on function webhookpub.explain_event (text) is
  'For each webhook of the event''s user: whether it matches and which clause decided. Raises WH020.';
--! EndIncluded 7_inspect/explain_event.sql

--! Included 0_roles/create_roles.sql
-- Creates the roles that are missing. They belong to the whole server, and all of its
-- databases share them.
--
-- Called by  webhookpub.install_roles.
-- Locks      their names: one that creates them in another database waits.
-- Returns    whether all of them are there now.

create or replace function webhookpub.create_roles ()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regrole('webhookpub_publisher') is null then
    create role webhookpub_publisher nologin;
    comment on role webhookpub_publisher is 'Publishes webhook events, and does nothing else.';
  end if;
  if to_regrole('webhookpub_worker') is null then
    create role webhookpub_worker nologin;
    comment on role webhookpub_worker is 'Runs webhookpub''s worker.';
  end if;
  if to_regrole('webhookpub_operator') is null then
    create role webhookpub_operator nologin;
    comment on role webhookpub_operator is 'Steers webhookpub and sees everything but secrets.';
  end if;
  if to_regrole('webhookpub_readonly') is null then
    create role webhookpub_readonly nologin;
    comment on role webhookpub_readonly is 'Sees everything of webhookpub but secrets.';
  end if;
  if to_regrole('webhookpub_tenant') is null then
    create role webhookpub_tenant nologin;
    comment on role webhookpub_tenant is 'Sees what is its own user''s of webhookpub.';
  end if;
  return true;
exception
  when insufficient_privilege then
    return false;
  when duplicate_object or unique_violation then
    -- Another database was faster.
    return webhookpub.create_roles();
end;
$$;

comment on function webhookpub.create_roles () is
  'Creates the roles webhookpub_* that are missing; returns false when that is not allowed.';
--! EndIncluded 0_roles/create_roles.sql
--! Included 0_roles/grant_functions.sql
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
    -- random_hex is what random_event_id is made of.
    webhookpub.random_event_id, webhookpub.random_hex
  to webhookpub_publisher;

  grant execute on function
    webhookpub.closed_networks,
    webhookpub.wake, webhookpub.enter_fan_out, webhookpub.leave_fan_out, webhookpub.fan_out,
    webhookpub.lease_deliveries, webhookpub.record_attempts, webhookpub.maintain
  to webhookpub_worker;

  -- The secret that create_webhook and rotate_secret make is shown to their caller; no
  -- function shows one that exists.
  grant execute on function
    webhookpub.create_webhook, webhookpub.update_webhook, webhookpub.rotate_secret,
    webhookpub.enable_webhook, webhookpub.disable_webhook, webhookpub.delete_webhook,
    webhookpub.fan_out, webhookpub.maintain
  to webhookpub_operator;

  -- What explain_event calls runs as its caller, so that it shows what its caller may see.
  grant execute on function
    webhookpub.explain_event, webhookpub.stored_envelope, webhookpub.type_patterns,
    webhookpub.unmatched_clause, webhookpub.data_holds, webhookpub.current_user_id
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.event_id, webhookpub.is_valid_event_type
  to webhookpub_publisher, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.version
  to webhookpub_worker, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
end;
$$;

comment on function webhookpub.grant_functions () is
  'Gives each role webhookpub_* the functions that it may call, and no others.';
--! EndIncluded 0_roles/grant_functions.sql
--! Included 0_roles/grant_tables.sql
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
    webhookpub.tenants, webhookpub.envelopes_by_event
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
  grant select on webhookpub.settings to webhookpub_operator, webhookpub_readonly;

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
--! EndIncluded 0_roles/grant_tables.sql
--! Included 0_roles/grant_jobs.sql
-- Lets the worker's role run graphile-worker without being the owner of its tables. They
-- have row-level security without policies; an owner, or a member of the owner, could
-- change graphile-worker's functions and so run what it likes as webhookpub's owner.
--
-- Called by  webhookpub.install_roles.
-- Locks      graphile-worker's tables, for an instant, the first time only.

create or replace function webhookpub.grant_jobs ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  grant usage on schema graphile_worker to webhookpub_worker;
  grant execute on all functions in schema graphile_worker to webhookpub_worker;
  grant select on graphile_worker.migrations to webhookpub_worker;
  grant select, insert, update, delete on
    graphile_worker._private_jobs, graphile_worker._private_job_queues,
    graphile_worker._private_tasks, graphile_worker._private_known_crontabs
  to webhookpub_worker;

  if not exists (
    select
    from pg_policy as p
    where p.polrelid = 'graphile_worker._private_jobs'::regclass
      and p.polname = 'webhookpub_worker'
  ) then
    create policy webhookpub_worker on graphile_worker._private_jobs
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_job_queues
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_tasks
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_known_crontabs
      to webhookpub_worker using (true);
  end if;
end;
$$;

comment on function webhookpub.grant_jobs () is
  'Gives webhookpub_worker graphile-worker''s jobs and queues.';
--! EndIncluded 0_roles/grant_jobs.sql
--! Included 0_roles/install_roles.sql
-- Installs the roles: creates those that are missing and gives each exactly the privileges
-- that belong to it, and no others. Safe to repeat.
--
-- Called by  migrations that add or replace objects; npm run migrate; psql, when somebody
--            else has had to create the roles.
-- Returns    false, with a WARNING, when they may not be created: all works without them,
--            but only for the owner and whom the owner grants something.

create or replace function webhookpub.install_roles ()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not webhookpub.create_roles() then
    raise warning 'webhookpub''s roles are not installed: % may not create roles', current_user
      using hint = 'All works without them. docs/security.md says who can create them, and how.';
    return false;
  end if;
  perform webhookpub.grant_functions();
  perform webhookpub.grant_tables();
  perform webhookpub.grant_jobs();
  return true;
end;
$$;

comment on function webhookpub.install_roles () is
  'Creates the roles webhookpub_* where that is allowed, and gives each its privileges; false when it is not allowed.';
--! EndIncluded 0_roles/install_roles.sql

revoke execute on function
  webhookpub.current_user_id (),
  webhookpub.create_roles (),
  webhookpub.grant_functions (),
  webhookpub.grant_tables (),
  webhookpub.grant_jobs (),
  webhookpub.install_roles ()
from public;

select webhookpub.install_roles();
