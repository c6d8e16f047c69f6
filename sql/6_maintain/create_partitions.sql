-- Makes the daily partitions of a table ahead of time.
--
-- Called by  webhookpub.maintain; the migration that makes the first ones.
-- Locks      attaching is allowed beside inserts; it gives up after 200 ms and is tried
--            again in the next round, so that no publisher waits behind it.
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
  set lock_timeout = '200ms'
as $$
declare
  v_table text := (select c.relname from pg_class as c where c.oid = p_table);
  v_day date;
  v_name text;
  v_count bigint := 0;
begin
  for v_day in
    select g.day::date
    from generate_series(
      p_now::date - 1, p_now::date + p_days_ahead, interval '1 day'
    ) as g (day)
  loop
    v_name := v_table || to_char(v_day, '_YYYYMMDD');
    continue when to_regclass(format('webhookpub.%I', v_name)) is not null;
    begin
      execute format(
        'create table webhookpub.%I (like webhookpub.%I including all)', v_name, v_table
      );
      execute format(
        'comment on table webhookpub.%I is %L', v_name, format('%s of %s.', v_table, v_day)
      );
      -- Without a policy: it is read through its table only, whose policies then count.
      execute format('alter table webhookpub.%I enable row level security', v_name);
      execute format(
        'alter table webhookpub.%I attach partition webhookpub.%I for values from (%L) to (%L)',
        v_table, v_name, v_day::timestamptz, (v_day + 1)::timestamptz
      );
      v_count := v_count + 1;
    exception when lock_not_available or check_violation then
      raise warning 'partition % could not be made now: %', v_name, sqlerrm;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.create_partitions (regclass, integer, timestamptz) is
  'Makes the daily partitions (UTC) of envelopes or attempts from yesterday to p_days_ahead; returns how many.';
