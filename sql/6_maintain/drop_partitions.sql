-- Drops the oldest partition that nobody needs any more.
--
-- Called by  webhookpub.keep_partitions.
-- Locks      the partitioned table, for the instant of the drop; it gives up after 50 ms
--            and is tried again in the next round. One a round: the lock is held until
--            the round commits, and the next round follows soon.
-- Returns    how many were dropped: one or none.
--
-- A partition of envelopes stays as long as one of its events or a pending delivery needs it.

create or replace function webhookpub.drop_partitions (
  p_table regclass,
  p_before timestamptz
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
  v_name text;
  v_begin timestamptz;
  v_end timestamptz;
begin
  for v_name, v_begin, v_end in
    select p.name, p.first_day, p.last_day + 1
    from webhookpub.partitions_of(p_table) as p
    where p.last_day + 1 <= p_before
    order by p.first_day
  loop
    continue when v_table = 'envelopes'
      and webhookpub.envelopes_are_needed(v_begin, v_end);
    begin
      execute format('lock table webhookpub.%I in access exclusive mode', v_name);
      -- Whoever read an envelope before that, to replay it, has committed now.
      continue when v_table = 'envelopes'
        and webhookpub.envelopes_are_needed(v_begin, v_end);
      execute format('drop table webhookpub.%I', v_name);
      return 1;
    exception when lock_not_available then
      raise warning 'partition % could not be dropped now: %', v_name, sqlerrm;
      return 0;
    end;
  end loop;
  return 0;
end;
$$;

comment on function webhookpub.drop_partitions (regclass, timestamptz) is
  'Drops the oldest partition of envelopes or attempts that ends before p_before and that nothing needs; returns how many.';
