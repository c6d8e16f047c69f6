-- Reads what partitions there are, and whether DEFAULT has rows, which nobody else may look
-- into: a partition would show the rows of everybody.
--
-- Called by  the view webhookpub.partitions.

create or replace function webhookpub.read_partitions ()
  returns table (
    table_name name,
    partition_name name,
    first_day date,
    last_day date,
    bytes bigint,
    has_strays boolean
  )
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select
    t.relname,
    c.relname,
    p.first_day,
    p.last_day,
    pg_total_relation_size(c.oid),
    case when p.name is null then webhookpub.has_strays(t.oid) end
  from pg_class as t
  join pg_inherits as i on i.inhparent = t.oid
  join pg_class as c on c.oid = i.inhrelid
  left join webhookpub.partitions_of(t.oid) as p on p.name = c.relname
  where t.oid in ('webhookpub.envelopes'::regclass, 'webhookpub.attempts'::regclass)
    and c.relkind = 'r';
$$;

comment on function webhookpub.read_partitions () is
  'The rows of webhookpub.partitions, for those who may not look into partitions.';
