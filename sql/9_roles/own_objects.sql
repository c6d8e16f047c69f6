-- Lists the objects of webhookpub that privileges are granted on, with these privileges: its
-- schema, what is in it, and the publish functions.
--
-- Called by  webhookpub.check_privileges and webhookpub.settle_privileges.
-- Returns    a row an object; letter is its kind in pg_default_acl; privileges has those of
--            its columns, too, and is null where there is none.
--
-- Types are not here: with one that PUBLIC may use nobody can do anything.

create or replace function webhookpub.own_objects ()
  returns table (
    class oid, object oid, kind text, letter text, name text, namespace oid, privileges aclitem[]
  )
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select n.tableoid, n.oid, 'schema', 'n', n.oid::regnamespace::text, null::oid,
    coalesce(n.nspacl, acldefault('n', n.nspowner))
  from pg_namespace as n
  where n.nspname = 'webhookpub'
  union all
  select p.tableoid, p.oid, 'routine', 'f', p.oid::regprocedure::text, p.pronamespace,
    coalesce(p.proacl, acldefault('f', p.proowner))
  from pg_proc as p
  where p.pronamespace = to_regnamespace('webhookpub')
    or p.pronamespace = to_regnamespace('public')
    and p.proname in ('webhook_publish_tx', 'webhook_publish_best_effort_tx', 'webhook_publish')
  union all
  select c.tableoid, c.oid, k.kind, k.letter, c.oid::regclass::text, c.relnamespace,
    nullif(array(select unnest(c.relacl)) || array(
      select unnest(a.attacl) from pg_attribute as a where a.attrelid = c.oid
    ), '{}')
  from pg_class as c
  cross join lateral (
    select
      case c.relkind when 'S' then 'sequence' else 'table' end,
      case c.relkind when 'S' then 'S' else 'r' end
  ) as k (kind, letter)
  where c.relnamespace = to_regnamespace('webhookpub')
    and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S');
$$;

comment on function webhookpub.own_objects () is
  'The objects of webhookpub that privileges are granted on, with these privileges.';
