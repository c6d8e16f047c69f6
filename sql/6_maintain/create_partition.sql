-- Makes the partition of one day. Rows of that day that had to go to DEFAULT move there; there
-- are few of them, or webhookpub.settle_strays does it in another way.
--
-- Called by  webhookpub.create_partitions, webhookpub.settle_strays.
-- Locks      attaching is allowed beside inserts, but for those into DEFAULT. Where such may
--            come, which is for days that have begun or are about to, the whole table, so that
--            what is inserted meanwhile waits for its partition instead of being refused. It
--            gives up after 50 ms and is tried again in the next round.
-- Returns    whether it was made.

create or replace function webhookpub.create_partition (
  p_table regclass,
  p_day date
)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '50ms'
as $$
declare
  v_table constant text := (select c.relname from pg_class as c where c.oid = p_table);
  v_name constant text := v_table || to_char(p_day, '_YYYYMMDD');
begin
  if p_day <= (clock_timestamp() + interval '1 hour')::date then
    execute format('lock table only webhookpub.%I in access exclusive mode', v_table);
  end if;
  execute format(
    'create table webhookpub.%I (like webhookpub.%I including all)', v_name, v_table
  );
  -- Nobody reads a partition by itself: it would show the rows of everybody.
  execute format('alter table webhookpub.%I enable row level security', v_name);
  execute format(
    'comment on table webhookpub.%I is %L',
    v_name, format('%s of %s.', v_table, to_char(p_day, 'YYYY-MM-DD'))
  );
  execute format(
    'with stray as (
       delete from webhookpub.%1$I as d where d.%2$I >= %4$L and d.%2$I < %5$L returning d.*
     )
     insert into webhookpub.%3$I select s.* from stray as s',
    v_table || '_default', webhookpub.partition_key(p_table), v_name,
    p_day::timestamptz, (p_day + 1)::timestamptz
  );
  execute format(
    'alter table webhookpub.%I attach partition webhookpub.%I for values from (%L) to (%L)',
    v_table, v_name, p_day::timestamptz, (p_day + 1)::timestamptz
  );
  return true;
exception when lock_not_available then
  raise warning 'partition % could not be made now: %', v_name, sqlerrm;
  return false;
end;
$$;

comment on function webhookpub.create_partition (regclass, date) is
  'Makes the partition of envelopes or attempts for a day (UTC), with what DEFAULT has of it; false when a lock it needs is not to be had now.';
