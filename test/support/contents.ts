import type { Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { migrate } from "../../src/migrate.ts";
import { emptyDatabase } from "./database.ts";

/** Everything that there is in webhookpub and of it in public, with definitions and rights. */
export async function contents(sql: Sql): Promise<unknown[]> {
  return await sql.begin(async (tx) => {
    await tx`set local search_path = pg_catalog`;
    return [
      ...(await tx`
        select p.oid::regprocedure::text as name, pg_get_functiondef(p.oid) as definition,
          p.proacl::text as acl, obj_description(p.oid, 'pg_proc') as comment
        from pg_proc as p
        where p.pronamespace = 'webhookpub'::regnamespace
          or (p.pronamespace = 'public'::regnamespace and p.proname like 'webhook%')
        order by 1`),
      ...(await tx`
        select c.oid::regclass::text as name, c.relkind, c.relacl::text as acl, c.reloptions,
          case when c.relkind = 'v' then pg_get_viewdef(c.oid) end as definition,
          (
            select json_agg(json_build_array(
              a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation::regcollation::text
            ) order by a.attnum)
            from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0
          ) as columns,
          (
            select json_agg(pg_get_constraintdef(k.oid) order by k.conname)
            from pg_constraint as k where k.conrelid = c.oid
          ) as constraints
        from pg_class as c where c.relnamespace = 'webhookpub'::regnamespace
        order by 1`),
    ];
  });
}

/** The same as `migrate` makes it. */
export async function migrated(t: Test): Promise<unknown[]> {
  const { sql, url } = await emptyDatabase(t);
  await migrate(url, () => {});
  return await contents(sql);
}
