import type { Sql } from "../../src/database/connect.ts";

/** What somebody with few rights has planted for functions that run with more. */
export interface Trap {
  /** Makes a session look up names here first. */
  readonly enter: (session: Sql) => Promise<void>;
  /** Whether something has been called since the last time, even if that was rolled back. */
  readonly sprung: (session: Sql) => Promise<boolean>;
}

/**
 * Plants, in a schema of the session's own: an operator for every operator of PostgreSQL and
 * a function for every function, of the same names and types, and domains for the types that
 * are written as names; and, in each session, temporary views with the names of all tables.
 * Whoever looks any of them up by its bare name finds these first. They count, and fail.
 */
export async function plantTrap(session: Sql, schema: string): Promise<Trap> {
  await session.unsafe(`
    -- A sequence, because it counts what is rolled back, too.
    create sequence ${schema}.sprung;
    create function ${schema}.spring () returns boolean
      language plpgsql set search_path = pg_catalog
    as $$
    begin
      perform nextval('${schema}.sprung');
      raise exception 'hijacked as %', current_user;
    end;
    $$;`);
  await session.unsafe(PLANT.replaceAll("trap.", `${schema}.`));
  for (const type of ["text", "jsonb", "name", "timestamptz", "regclass", "inet", "cidr", "date"]) {
    await session.unsafe(
      `create domain ${schema}.${type} as pg_catalog.${type} check (${schema}.spring())`,
    );
  }
  const relations = await session<{ name: string; columns: string }[]>`
    select distinct on (c.relname) c.relname as name, (
      select string_agg(
        -- Not a plain null, of which the planner would know that it equals nothing.
        format('case when %s.spring() then null::%s end as %I', ${schema}::text, t.name, a.attname), ', ' order by a.attnum)
      from pg_attribute as a
      cross join lateral (
        -- Of anyarray, and of rows that have one, no view can be made.
        select case when y.typtype = 'p' or e.typtype = 'c' then 'text'
          else y.oid::regtype::text end as name
        from pg_type as y
        left join pg_type as e on e.oid = y.typelem
        where y.oid = a.atttypid
      ) as t
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ) as columns
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('webhookpub', 'graphile_worker', 'pg_catalog')
      and c.relkind in ('r', 'p', 'v') and c.relname ~ '^[a-z_]+$'`;
  return {
    async enter(other) {
      const views = relations.map(
        ({ name, columns }) =>
          `create temporary view ${name} as select ${columns} where ${schema}.spring()`,
      );
      await other.unsafe(views.join(";"));
      await other.unsafe(`set search_path = ${schema}, pg_temp, pg_catalog, public`);
    },
    async sprung(other) {
      const [row] = await other.unsafe<[{ sprung: boolean }]>(
        `select is_called as sprung from ${schema}.sprung`,
      );
      await other.unsafe(`select pg_catalog.setval('${schema}.sprung', 1, false)`);
      return row.sprung;
    },
  };
}

const PLANT = `
  do $plant$
  declare
    v_one record;
    v_name text;
  begin
    for v_one in
      select p.oid, p.proname, pg_get_function_arguments(p.oid) as arguments,
        pg_get_function_result(p.oid) as result, p.proretset
      from pg_catalog.pg_proc as p
      where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f'
    loop
      begin
        execute format(
          'create function trap.%I (%s) returns %s language plpgsql as $$ begin perform trap.spring(); end; $$',
          v_one.proname, v_one.arguments, v_one.result
        );
      exception when others then
        -- Some types are for PostgreSQL alone.
      end;
    end loop;
    -- In its place: the real one takes "any", which only C can.
    create function trap.format (text, text) returns text
      language plpgsql as $$ begin perform trap.spring(); end; $$;
    for v_one in
      select o.oprname, o.oprleft::regtype::text as l, o.oprright::regtype::text as r,
        o.oprresult::regtype::text as result, row_number() over () as n
      from pg_catalog.pg_operator as o
      where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprleft <> 0
    loop
      v_name := 'spring_' || v_one.n;
      begin
        execute format(
          'create function trap.%I (%s, %s) returns %s language plpgsql as $$ begin perform trap.spring(); end; $$',
          v_name, v_one.l, v_one.r, v_one.result
        );
        execute format(
          'create operator trap.%s (leftarg = %s, rightarg = %s, function = trap.%I)',
          v_one.oprname, v_one.l, v_one.r, v_name
        );
      exception when others then
      end;
    end loop;
  end;
  $plant$`;
