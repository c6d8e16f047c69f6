-- Makes the daily partitions of a table ahead of time, and those of days whose rows had to
-- go to the DEFAULT partition: they move home.
--
-- Called by  webhookpub.maintain; the migration that makes the first ones.
-- Locks      attaching is allowed beside inserts, but for those into DEFAULT; it gives up
--            after 50 ms and is tried again in the next round, so that nobody waits long.
--            No publisher ever meets it.
-- Returns    how many were made.

create or replace function webhookpub.create_partitions (
  p_table regclass,
  p_days_ahead integer default 14,
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '50ms'
as $$
declare
  v_table constant text := (select c.relname from pg_class as c where c.oid = p_table);
  v_key constant text := case v_table when 'attempts' then 'started_at' else 'created_at' end;
  v_strays date[];
  v_day date;
  v_name text;
  v_count bigint := 0;
begin
  execute format(
    'select array_agg(distinct d.%I::date) from webhookpub.%I as d', v_key, v_table || '_default'
  ) into v_strays;
  for v_day in
    select g.day::date
    from generate_series(
      p_now::date - 1, p_now::date + p_days_ahead, interval '1 day'
    ) as g (day)
    union
    select unnest(v_strays)
    order by 1
  loop
    v_name := v_table || to_char(v_day, '_YYYYMMDD');
    continue when to_regclass(format('webhookpub.%I', v_name)) is not null;
    begin
      execute format(
        'create table webhookpub.%I (like webhookpub.%I including all)', v_name, v_table
      );
      -- Nobody reads a partition by itself: it would show the rows of everybody.
      execute format('alter table webhookpub.%I enable row level security', v_name);
      execute format(
        'comment on table webhookpub.%I is %L', v_name, to_char(v_day, format('"%s of "YYYY-MM-DD.', v_table))
      );
      if v_day = any (v_strays) then
        -- Locked first: a row that came in the midst could not be attached beside.
        execute format('lock table webhookpub.%I', v_table || '_default');
        execute format(
          'with stray as (
             delete from webhookpub.%1$I as d where d.%2$I >= %4$L and d.%2$I < %5$L returning d.*
           )
           insert into webhookpub.%3$I select s.* from stray as s',
          v_table || '_default', v_key, v_name, v_day::timestamptz, (v_day + 1)::timestamptz
        );
      end if;
      execute format(
        'alter table webhookpub.%I attach partition webhookpub.%I for values from (%L) to (%L)',
        v_table, v_name, v_day::timestamptz, (v_day + 1)::timestamptz
      );
      v_count := v_count + 1;
    exception when lock_not_available or check_violation then
      raise warning 'partition % could not be made now: %', v_name, sqlerrm;
    end;
  end loop;
  if v_count > 0 then
    -- Default privileges may have opened them.
    perform webhookpub.settle_privileges(p_quietly => true);
  end if;
  return v_count;
end;
$$;

comment on function webhookpub.create_partitions (regclass, integer, timestamptz) is
  'Makes the daily partitions (UTC) of envelopes or attempts from yesterday to p_days_ahead, and those of rows in DEFAULT, which move there; returns how many.';
