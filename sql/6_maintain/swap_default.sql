-- Makes a table's DEFAULT partition, which has too many rows to move, the partition of their
-- days, and a new one DEFAULT. Whoever reads finds each row once, whenever that is.
--
-- Called by  webhookpub.settle_strays, which has said by a check of which days the rows are.
-- Locks      in the first step, which reads all of the rows, nothing that reading or writing
--            needs; in the second the whole table, for an instant. Gives up after 50 ms.
-- Returns    whether it did a step.

create or replace function webhookpub.swap_default (
  p_table regclass
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
  v_check text;
  v_is_valid boolean;
  v_first date;
  v_last date;
begin
  select
    c.conname, c.convalidated,
    to_date(substring(c.conname from '_([0-9]{8})_[0-9]{8}$'), 'YYYYMMDD'),
    to_date(right(c.conname, 8), 'YYYYMMDD')
  into v_check, v_is_valid, v_first, v_last
  from pg_constraint as c
  where c.oid = webhookpub.swap_check(p_table);
  if v_check is null then
    return false;
  elsif not v_is_valid then
    execute format('alter table webhookpub.%I validate constraint %I', v_table || '_default', v_check);
    return true;
  end if;
  -- By the valid check, attaching knows that it need not look.
  execute format(
    'lock table only webhookpub.%1$I in access exclusive mode;
     alter table webhookpub.%1$I detach partition webhookpub.%2$I;
     alter table webhookpub.%2$I rename to %3$I;
     create table webhookpub.%2$I partition of webhookpub.%1$I default;
     alter table webhookpub.%2$I enable row level security;
     alter table webhookpub.%1$I attach partition webhookpub.%3$I for values from (%5$L) to (%6$L);
     alter table webhookpub.%3$I drop constraint %4$I;
     comment on table webhookpub.%2$I is %7$L;
     comment on table webhookpub.%3$I is %8$L',
    v_table, v_table || '_default', v_table || to_char(v_first, '_YYYYMMDD') || to_char(v_last, '_YYYYMMDD'),
    v_check, v_first::timestamptz, (v_last + 1)::timestamptz,
    'A safety net: it stays empty while upkeep runs.',
    format('%s of %s to %s.', v_table, to_char(v_first, 'YYYY-MM-DD'), to_char(v_last, 'YYYY-MM-DD'))
  );
  return true;
exception
  when lock_not_available then
    raise warning 'strays in % could not be settled now: %', p_table, sqlerrm;
    return false;
  when check_violation then
    -- One of another day came before the check did: all is looked at anew.
    execute format('alter table webhookpub.%I drop constraint %I', v_table || '_default', v_check);
    return true;
end;
$$;

comment on function webhookpub.swap_default (regclass) is
  'Does one step of making the DEFAULT partition of envelopes or attempts the partition of its days; false when it could not.';
