-- Installs the roles: creates those that are missing and gives each exactly the privileges
-- that belong to it, and no others; strangers lose what they were not meant to have. Safe to
-- repeat.
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
  perform webhookpub.settle_privileges();
  if not webhookpub.create_roles() then
    raise warning 'webhookpub''s roles are not installed: % may not create roles', current_user
      using hint = 'All works without them. How to have them: docs/security.md, in the package webhookpub.';
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
