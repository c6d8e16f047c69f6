-- Lists the partitions of a table and the days (UTC) that each is of. Most are of one; what
-- gathered in DEFAULT while none was made became one of many (webhookpub.swap_default).
--
-- Called by  webhookpub.create_partitions, webhookpub.drop_partitions, webhookpub.settle_strays.

create or replace function webhookpub.partitions_of (
  p_table regclass
)
  returns table (
    name text,
    first_day date,
    last_day date
  )
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select
    c.relname,
    to_date(substring(c.relname from '_([0-9]{8})(_[0-9]{8})?$'), 'YYYYMMDD'),
    to_date(right(c.relname, 8), 'YYYYMMDD')
  from pg_inherits as i
  join pg_class as c on c.oid = i.inhrelid
  where i.inhparent = p_table and c.relname ~ '_[0-9]{8}$'
  order by 2;
$$;

comment on function webhookpub.partitions_of (regclass) is
  'The partitions of envelopes or attempts, but for DEFAULT, and the first and last day of each.';
