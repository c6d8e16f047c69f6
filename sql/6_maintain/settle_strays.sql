-- Does one step towards a place for the rows in DEFAULT, each a short transaction of its own.
--
-- Called by  webhookpub.create_partitions.
-- Locks      DEFAULT, or what webhookpub.create_partition and webhookpub.swap_default lock.
-- Returns    whether it did one; false when a lock it needs is not to be had now.
--
-- A few rows move to the partition of their day, a day a step. To move many would keep
-- everybody waiting: they stay where they are, and DEFAULT becomes their partition, of all days
-- between those that have one (webhookpub.swap_default). First of all, DEFAULT takes no other
-- rows from now on. It takes a week that is to come, for if somebody reads the table for hours
-- the swap has to wait as long.

create or replace function webhookpub.settle_strays (
  p_table regclass,
  p_now timestamptz
)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '50ms'
as $$
declare
  v_few constant bigint := 16 * 1024 * 1024; -- bytes, moved in some 50 ms
  v_key constant name := webhookpub.partition_key(p_table);
  v_today constant date := p_now::date;
  v_default constant text := (select c.relname || '_default' from pg_class as c where c.oid = p_table);
  v_first date;
  v_last date;
  v_begin date;
  v_next date;
  v_end date;
begin
  if webhookpub.swap_check(p_table) is not null then
    return webhookpub.swap_default(p_table);
  end if;
  execute format(
    'select min(d.%1$I)::date, max(d.%1$I)::date from webhookpub.%2$I as d', v_key, v_default
  ) into v_first, v_last;
  if v_first is null then
    return false;
  end if;
  select
    coalesce(max(p.last_day + 1) filter (where p.last_day < v_first), v_first - 1),
    coalesce(min(p.first_day) filter (where p.first_day > v_first), 'infinity')
  into v_begin, v_next
  from webhookpub.partitions_of(p_table) as p;
  if pg_table_size(format('webhookpub.%I', v_default)::regclass) <= v_few or v_last >= v_next then
    return webhookpub.create_partition(p_table, v_first);
  end if;
  v_end := least(v_next, greatest(
    v_last + 1, case when v_today >= v_begin and v_today < v_next then v_today + 7 end
  ));
  execute format(
    'alter table webhookpub.%I add constraint %I check (%3$I >= %4$L and %3$I < %5$L) not valid',
    v_default, v_default || to_char(v_begin, '"_is_of_"YYYYMMDD') || to_char(v_end - 1, '_YYYYMMDD'),
    v_key, v_begin::timestamptz, v_end::timestamptz
  );
  return true;
exception when lock_not_available then
  raise warning 'strays in % could not be settled now: %', p_table, sqlerrm;
  return false;
end;
$$;

comment on function webhookpub.settle_strays (regclass, timestamptz) is
  'Does one short step towards a partition for the rows in DEFAULT; false when it could not.';
