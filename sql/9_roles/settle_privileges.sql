-- Takes away what nobody granted on purpose: what PUBLIC may do, and what default privileges
-- gave with new or restored objects. From then on what is granted on them is somebody's
-- intention, and stays.
--
-- Called by  webhookpub.install_roles, webhookpub.create_partitions; npm run migrate before
--            it upgrades, because a restore may have come before; migrations that make objects.
-- Raises     WARNINGs: what was taken away, unless p_quietly; what a restore brought along
--            and is kept, because its dump may have had it.

create or replace function webhookpub.settle_privileges (p_quietly boolean default false)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_server constant bigint := (select c.system_identifier from pg_control_system() as c);
  v_one record;
begin
  for v_one in
    select c.who, c.origin, count(*) as count, min(c.object) as example,
      string_agg(c.statement, '; ') as statements
    from webhookpub.check_privileges() as c
    group by c.who, c.origin
    order by c.who, c.origin
  loop
    if v_one.origin = 'a restore' then
      raise warning '% may use % of webhookpub''s objects, as a restore has made them',
        v_one.who, v_one.count
      using hint = format('If nobody means them: %s.', v_one.statements);
      continue;
    end if;
    execute v_one.statements;
    if not p_quietly then
      raise warning '% could use % of webhookpub''s objects, such as %: revoked',
        v_one.who, v_one.count, v_one.example
      using hint = format(
        'They came from %s. Grant anew what is meant, such as webhookpub_publisher; it stays.',
        v_one.origin
      );
    end if;
  end loop;

  insert into webhookpub.settled_objects (server, class, object)
  select v_server, o.class, o.object
  from webhookpub.own_objects() as o
  on conflict do nothing;
  delete from webhookpub.settled_objects as s
  where s.server <> v_server
    or not exists (
      select from webhookpub.own_objects() as o where o.class = s.class and o.object = s.object
    );
end;
$$;

comment on function webhookpub.settle_privileges (boolean) is
  'Takes away what PUBLIC may do with webhookpub''s objects, and what default privileges gave with new or restored ones.';
