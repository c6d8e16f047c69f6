-- Says whether rows had to go to a table's DEFAULT partition.
--
-- Called by  webhookpub.create_partitions.

create or replace function webhookpub.has_strays (
  p_table regclass
)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_has_strays boolean;
begin
  execute format(
    'select exists (select from webhookpub.%I)',
    (select c.relname || '_default' from pg_class as c where c.oid = p_table)
  ) into v_has_strays;
  return v_has_strays;
end;
$$;

comment on function webhookpub.has_strays (regclass) is
  'Whether the DEFAULT partition of envelopes or attempts has rows.';
