-- Names the column by which a table is partitioned.
--
-- Called by  webhookpub.create_partition, webhookpub.settle_strays.

create or replace function webhookpub.partition_key (
  p_table regclass
)
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select a.attname
  from pg_partitioned_table as p
  join pg_attribute as a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
  where p.partrelid = p_table;
$$;

comment on function webhookpub.partition_key (regclass) is
  'The column by which envelopes or attempts are partitioned.';
