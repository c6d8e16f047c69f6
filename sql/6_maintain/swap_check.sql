-- Finds the check that says of which days the rows in DEFAULT are: while it is there, DEFAULT
-- is about to become their partition.
--
-- Called by  webhookpub.settle_strays, webhookpub.swap_default.
-- Returns    null when there is none.

create or replace function webhookpub.swap_check (
  p_table regclass
)
  returns oid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select k.oid
  from pg_class as c
  join pg_class as d on d.relnamespace = c.relnamespace and d.relname = c.relname || '_default'
  join pg_constraint as k on k.conrelid = d.oid and k.conname ~ '_is_of_[0-9]{8}_[0-9]{8}$'
  where c.oid = p_table;
$$;

comment on function webhookpub.swap_check (regclass) is
  'The check of a DEFAULT partition that is about to become one of some days; null when it is not.';
