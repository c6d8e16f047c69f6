-- Makes the daily partitions of a table ahead of time; today's comes first. What had to go to
-- DEFAULT, because none was made for days, comes before that: attaching a partition reads all
-- that DEFAULT has, while everybody waits.
--
-- Called by  webhookpub.keep_partitions; the migration that makes the first ones.
-- Locks      those of webhookpub.create_partition and webhookpub.settle_strays.
-- Returns    how many were made, or steps towards one; at most p_limit. With a limit of one,
--            nobody waits for more than that.

create or replace function webhookpub.create_partitions (
  p_table regclass,
  p_days_ahead integer default 14,
  p_now timestamptz default clock_timestamp(),
  p_limit integer default null
)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
as $$
declare
  v_count bigint := 0;
  v_days date[];
  v_day date;
begin
  while webhookpub.has_strays(p_table) loop
    exit when v_count >= p_limit or not webhookpub.settle_strays(p_table, p_now);
    v_count := v_count + 1;
  end loop;

  v_days := array(
    select g.day::date
    from generate_series(p_now::date - 1, p_now::date + p_days_ahead, interval '1 day') as g (day)
    where not webhookpub.has_strays(p_table)
      and not exists (
        select
        from webhookpub.partitions_of(p_table) as p
        where g.day::date between p.first_day and p.last_day
      )
    order by g.day < p_now::date, g.day
    limit p_limit - v_count
  );
  foreach v_day in array v_days loop
    exit when not webhookpub.create_partition(p_table, v_day);
    v_count := v_count + 1;
  end loop;
  if v_count > 0 then
    -- Default privileges may have opened them.
    perform webhookpub.settle_privileges(p_quietly => true);
  end if;
  return v_count;
end;
$$;

comment on function webhookpub.create_partitions (regclass, integer, timestamptz, integer) is
  'Makes the daily partitions (UTC) of envelopes or attempts, from yesterday to p_days_ahead, after what has gathered in DEFAULT has found its place; returns how many steps it did.';
