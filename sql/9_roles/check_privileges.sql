-- Lists who may do what with webhookpub's objects without having been meant to. None is good.
--
-- Called by  webhookpub.settle_privileges; operators; doctor.
-- Returns    what PUBLIC may do; and what others may do with objects that have not been
--            settled: such as a restore has made, or default privileges have opened. What is
--            granted on a settled object was granted by somebody who meant it. origin says
--            where it is from, statement ends it.
--
-- The roles webhookpub_* are not here: install_roles gives them exactly what is theirs.
-- Default privileges of the schema webhookpub do not count as such: only somebody who means
-- webhookpub can have set them.

create or replace function webhookpub.check_privileges ()
  returns table (who text, object text, privilege text, origin text, statement text)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  with unsettled as (
    select o.class, o.object
    from webhookpub.own_objects() as o
    except
    select s.class, s.object
    from webhookpub.settled_objects as s
    where s.server = (select c.system_identifier from pg_control_system() as c)
  )
  select
    w.name,
    o.kind || ' ' || o.name,
    string_agg(distinct e.privilege_type, ', '),
    case
      when e.grantee = 0 then 'PostgreSQL''s own defaults'
      when bool_or(i.inherited) then 'default privileges'
      else 'a restore'
    end,
    format('revoke all on %s %s from %s', o.kind, o.name, w.name)
  from webhookpub.own_objects() as o
  cross join aclexplode(o.privileges) as e
  cross join lateral (
    select case e.grantee when 0 then 'PUBLIC' else e.grantee::regrole::text end
  ) as w (name)
  cross join lateral (
    select exists (
      select
      from pg_default_acl as d
      cross join aclexplode(d.defaclacl) as x
      where d.defaclobjtype::text = o.letter
        and d.defaclnamespace in (0, nullif(o.namespace, to_regnamespace('webhookpub')))
        and x.grantee = e.grantee
        and x.privilege_type = e.privilege_type
    )
  ) as i (inherited)
  where e.grantee = 0
    or e.grantee <> e.grantor
    and w.name !~ '^webhookpub_(publisher|worker|operator|readonly|tenant)$'
    and exists (select from unsettled as u where u.class = o.class and u.object = o.object)
  group by w.name, e.grantee, o.kind, o.name
  order by e.grantee, o.kind, o.name;
$$;

comment on function webhookpub.check_privileges () is
  'Who may do what with webhookpub''s objects without having been meant to, and the statement that ends it; none is good.';
