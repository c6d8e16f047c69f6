-- Locks the tables that a migration changes, all of them at once, and gives up soon.
--
-- Called by  migrations, before they change a table that is in use; migrate runs them again.
-- Locks      these tables, against everybody, until the migration ends. Whoever publishes waits
--            behind it, but is never what PostgreSQL ends because two wait for one another: that
--            takes deadlock_timeout, and by then this has given up.

create or replace function webhookpub.lock_tables (
  variadic p_tables regclass[]
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_deadlock constant interval := current_setting('deadlock_timeout')::interval;
  v_each constant integer :=
    greatest(1, extract(epoch from v_deadlock) * 800 / cardinality(p_tables));
begin
  -- For the rest of the transaction, too: it holds them while it waits for whatever else.
  perform set_config('lock_timeout', v_each::text, true);
  execute (
    select 'lock table ' || string_agg(t.name::text, ', ' order by t.number)
    from unnest(p_tables) with ordinality as t (name, number)
  );
end;
$$;

comment on function webhookpub.lock_tables (regclass[]) is
  'Locks tables for a migration, all at once and never waiting for long; the migration is to be run again if that fails.';
