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
