--! Previous: sha1:63a494045f1e57baaa0b302963290ac36eaa21b3
--! Hash: sha1:637ddfc9417d644f3a0fbb01c4197ef936d6763f
--! Message: quiet upkeep and wake-ups

-- One publisher at a time notifies, rows in a DEFAULT partition move home, and upkeep waits
-- less for its locks.

create sequence webhookpub.notified_at minvalue 0 start 0;
comment on sequence webhookpub.notified_at is
  'When a publisher last decided to NOTIFY, in Unix milliseconds; others see it before its commit.';

--! Included 1_publish/notify_is_due.sql
-- Decides whether this publisher has to NOTIFY.
--
-- Called by  public.webhook_publish_tx, while no fan-out is awake.
-- Locks      an advisory lock until the end of the transaction, if nobody else has it.
--            Whoever has it is about to NOTIFY, and nobody waits for it.
-- Returns    false while another transaction is about to, and has been for less than 50 ms.
--            Should that one roll back, the tick finds the event.
--
-- A commit with a NOTIFY in it waits for every other such commit of the server. One at a
-- time waits for none, even when no worker runs.

create or replace function webhookpub.notify_is_due ()
  returns boolean
  language plpgsql
  volatile
as $$
declare
  v_now constant bigint := extract(epoch from clock_timestamp()) * 1000;
begin
  -- A sequence, because others see what is set before it is committed. The difference is
  -- below zero when the clock was set back.
  if pg_try_advisory_xact_lock(2003006832, 4)
    or v_now - (select n.last_value from webhookpub.notified_at as n) not between 0 and 50
  then
    perform setval('webhookpub.notified_at', v_now);
    return true;
  end if;
  return false;
end;
$$;

comment on function webhookpub.notify_is_due () is
  'Whether a publisher must NOTIFY: not while another is about to, for up to 50 ms.';
--! EndIncluded 1_publish/notify_is_due.sql
--! Included 1_publish/webhook_publish_tx.sql
-- Publishes an event in the caller's transaction: it commits with the caller's data.
--
-- Called by  triggers and applications, before an irreversible side effect.
-- Locks      nothing that another publisher waits for, but for one that publishes the
--            very same id at this moment. Inserts one row, and nothing else.
-- Returns    the event id, also when it was there already; null when publishing is off.
-- Raises     WH001, WH002, WH003, WH004, WH005.
--
-- It runs in other people's transactions all the time, and PostgreSQL prepares every
-- expression, function call and column of a statement anew each time it is executed: that,
-- and not the insert, is what publishing costs. So there is one statement, it reads one
-- row, and its condition is one CASE, which the planner leaves whole. Only if it has
-- written nothing is it worked out why.

create or replace function public.webhook_publish_tx (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_at constant timestamptz := clock_timestamp();
  v_id text := webhook_publish_tx.event_id;
  v_is_new boolean := true;
  v_envelope text;
  v_asleep boolean;
begin
  if coalesce(v_id, webhook_publish_tx.message_id, webhook_publish_tx.dedup_key) is null then
    v_id := webhookpub.random_event_id();
  else
    v_id := coalesce(v_id, webhookpub.event_id(variadic array_remove(array[
      webhook_publish_tx.message_id, webhook_publish_tx.event_type,
      webhook_publish_tx.dedup_key
    ], null)));
    v_is_new := webhookpub.is_event_id(v_id) and webhookpub.event_owner(v_id) is null;
  end if;
  -- Neither the type nor the id can hold what JSON would have to escape.
  v_envelope := format(
    '{"event": "%s", "id": "%s", "created_at": "%s", "data": %s}',
    webhook_publish_tx.event_type, v_id, webhookpub.rfc3339(v_at), webhook_publish_tx.data
  );

  insert into webhookpub.events
    (id, user_id, type, agent_id, conversation_id, labels, message_id, envelope, created_at,
     expires_at)
  select
    v_id, webhook_publish_tx.user_id, webhook_publish_tx.event_type,
    webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
    coalesce(webhook_publish_tx.labels, '{}'), webhook_publish_tx.message_id, v_envelope,
    v_at, v_at + s.event_retention
  from webhookpub.settings as s
  where case
    when s.publish_enabled
      and webhook_publish_tx.event_type = any (s.event_types)
      and v_is_new
    then webhook_publish_tx.data @> '{}' -- only an object contains that
      and webhook_publish_tx.user_id <> ''
      and length(webhook_publish_tx.user_id) <= 200
      and octet_length(concat(
        v_envelope, webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
        webhook_publish_tx.message_id, array_to_string(webhook_publish_tx.labels, '')
      )) <= s.max_payload_bytes
  end
  on conflict (id) do nothing
  returning webhookpub.fan_out_is_asleep() into v_asleep;
  if v_asleep then
    if webhookpub.notify_is_due() then
      notify webhook_events_new;
    end if;
  elsif v_asleep is null then
    if not webhookpub.refuse_event(
      webhook_publish_tx.event_type, webhook_publish_tx.user_id, webhook_publish_tx.data,
      v_id, octet_length(concat(
        v_envelope, webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
        webhook_publish_tx.message_id, array_to_string(webhook_publish_tx.labels, '')
      ))
    ) then
      return null;
    end if;
  end if;
  return v_id;
end;
$$;

comment on function public.webhook_publish_tx
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Publishes an event in your transaction, or raises (WH001 to WH005). Returns its id; an id that is there already is a no-op. In PL/pgSQL: perform webhook_publish_tx(...).';
--! EndIncluded 1_publish/webhook_publish_tx.sql
--! Included 6_maintain/create_partitions.sql
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
      execute format(
        'comment on table webhookpub.%I is %L', v_name, format('%s of %s.', v_table, v_day)
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
  return v_count;
end;
$$;

comment on function webhookpub.create_partitions (regclass, integer, timestamptz) is
  'Makes the daily partitions (UTC) of envelopes or attempts from yesterday to p_days_ahead, and those of rows in DEFAULT, which move there; returns how many.';
--! EndIncluded 6_maintain/create_partitions.sql
--! Included 6_maintain/drop_partitions.sql
-- Drops the oldest daily partition that nobody needs any more.
--
-- Called by  webhookpub.maintain.
-- Locks      the partitioned table, for the instant of the drop; it gives up after 50 ms
--            and is tried again in the next round. One a round: the lock is held until
--            the round commits, and the next round follows soon.
-- Returns    how many were dropped: one or none.
--
-- A day of envelopes stays as long as one of its events or a pending delivery needs it.

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
  v_table text := (select c.relname from pg_class as c where c.oid = p_table);
  v_name text;
  v_end timestamptz;
begin
  for v_name, v_end in
    select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') + 1
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = p_table
      and c.relname ~ '_[0-9]{8}$'
      and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= p_before
    order by c.relname
  loop
    continue when v_table = 'envelopes'
      and webhookpub.envelopes_are_needed(v_end - interval '1 day', v_end);
    begin
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
  'Drops the oldest daily partition of envelopes or attempts that ends before p_before and that nothing needs; returns how many.';
--! EndIncluded 6_maintain/drop_partitions.sql

revoke execute on function webhookpub.notify_is_due () from public;
