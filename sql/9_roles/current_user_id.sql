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
