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
    comment on role webhookpub_publisher is 'Publishes events, and does nothing else.';
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
