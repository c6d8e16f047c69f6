--! Previous: sha1:c7fce49722c197425c7fb1c84f85a57fff426c32
--! Hash: sha1:ea9acbbe4e4a135707a3d7952041ebb191478828
--! Message: nothing unsigned

-- Nothing goes out unsigned, and a replay keeps the day of its envelope from being dropped.

--! Included 3_deliver/due_deliveries.sql
-- Picks due deliveries of some webhooks, as many as each has room for, and locks them.
-- One whose circuit is open has none; when the pause is over, one, as a probe. A suspect
-- (webhookpub.due_suspect) comes first. A webhook without a secret, as after a restore that
-- left them out, waits for webhookpub.rotate_secret: nothing goes out unsigned.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    their ids, or null; and the webhooks of which there may be more: those that
--            used up their room.

create or replace function webhookpub.due_deliveries (
  p_webhook_ids text[],
  p_limits integer[],
  p_now timestamptz,
  p_suspect text,
  out due text[],
  out cut_short text[]
)
  language sql
  volatile
  -- From few webhooks to few deliveries, by index, whatever stale statistics say.
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
  select array_agg(f.id), array_agg(w.id) filter (where f.n = w.room)
  from unnest(p_webhook_ids, p_limits) as p (id, room)
  cross join lateral (
    select w.id, least(p.room, webhookpub.requests_allowed(w, p_now) - (
      select count(*)
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending' and d.leased
        and d.next_attempt_at > p_now
    )) as room
    from webhookpub.webhooks as w
    where w.id = p.id and w.enabled
      and exists (
        select from webhookpub.secrets as k where k.webhook_id = w.id and k.expires_at is null
      )
    offset 0
  ) as w
  cross join lateral (
    select u.id, row_number() over () as n
    from (
      select s.id
      from (
        select d.id
        from webhookpub.deliveries as d
        where d.id = p_suspect and d.webhook_id = w.id and w.room > 0
        for update skip locked
      ) as s
      union all
      -- Those whose worker was lost come first; whom two were lost with, only as p_suspect.
      select l.id
      from (
        select d.id
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and d.leased
          and d.next_attempt_at <= p_now and d.lost_in_a_row = 0
        order by d.next_attempt_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as l
      union all
      select r.id
      from (
        select d.id
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and not d.leased
          and d.next_attempt_at <= p_now
        order by d.next_attempt_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as r
    ) as u
    limit greatest(w.room, 0)
  ) as f;
$$;

comment on function webhookpub.due_deliveries (text[], integer[], timestamptz, text) is
  'Locks due deliveries of these webhooks, at most p_limits of each, within max_in_flight and its circuit; returns their ids, and the webhooks that may have more.';
--! EndIncluded 3_deliver/due_deliveries.sql
--! Included 5_retry/wake_deliveries.sql
-- Finds webhooks with due deliveries and room for a request, and wakes a worker: due
-- retries, expired leases, lost jobs and probes of open circuits are one and the same here.
--
-- Called by  webhookpub.wake.
-- Returns    how many webhooks were woken.
--
-- A tick looks at what became due last, and at no more of it than it can read in passing:
-- what it does not come to has a job, and else is found within a minute.

create or replace function webhookpub.wake_deliveries (
  p_since timestamptz
)
  returns bigint
  language plpgsql
  volatile
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_webhook_ids text[];
begin
  if p_since > '-infinity' then
    select array_agg(distinct d.webhook_id) into v_webhook_ids
    from (
      select d.webhook_id
      from webhookpub.deliveries as d
      where d.status = 'pending' and d.attempts >= 0
        and d.next_attempt_at between p_since and v_now
      order by d.next_attempt_at desc
      limit 2000
    ) as d;
    -- What became due before a circuit's pause was over is older than that.
    select v_webhook_ids || array_agg(w.id) into v_webhook_ids
    from webhookpub.webhooks as w
    where w.circuit_retry_at <= v_now;
    -- And so is what waits to be tried alone (webhookpub.due_suspect).
    select v_webhook_ids || array_agg(distinct d.webhook_id) into v_webhook_ids
    from webhookpub.deliveries as d
    where d.status = 'pending' and d.leased and d.lost_in_a_row = 1
      and d.next_attempt_at <= v_now
      and not exists (
        select
        from webhookpub.deliveries as o
        where o.status = 'pending' and o.leased and o.lost_in_a_row > 1
      );
  else
    -- From one webhook with pending deliveries to the next, by one look into the index.
    with recursive pending as (
      select min(d.webhook_id) as webhook_id
      from webhookpub.deliveries as d
      where d.status = 'pending'
      union all
      select (
        select min(d.webhook_id)
        from webhookpub.deliveries as d
        where d.status = 'pending' and d.webhook_id > p.webhook_id
      )
      from pending as p
      where p.webhook_id is not null
    )
    select array_agg(p.webhook_id) into v_webhook_ids
    from pending as p
    where p.webhook_id is not null;
  end if;

  select array_agg(w.id) into v_webhook_ids
  from webhookpub.webhooks as w
  where w.id = any (v_webhook_ids) and w.enabled
    and exists (
      select from webhookpub.secrets as k where k.webhook_id = w.id and k.expires_at is null
    )
    and exists (
      select
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending' and d.leased in (true, false)
        and d.next_attempt_at <= v_now
    )
    -- One that has as many requests under way as it may is left alone: with the next answer
    -- its worker comes back for more.
    and webhookpub.requests_allowed(w, v_now) > (
      select count(*)
      from webhookpub.deliveries as b
      where b.webhook_id = w.id and b.status = 'pending' and b.leased
        and b.next_attempt_at > v_now
    )
    -- A worker has just taken its job, and will look.
    and not exists (
      select
      from graphile_worker.jobs as j
      where j.key = w.id and j.locked_at > v_now - interval '2 seconds'
    );
  if v_webhook_ids is null then
    return 0;
  end if;
  perform webhookpub.add_deliver_jobs(v_webhook_ids);
  return cardinality(v_webhook_ids);
end;
$$;

comment on function webhookpub.wake_deliveries (timestamptz) is
  'Adds jobs for webhooks whose deliveries became due since then and that have room for a request.';
--! EndIncluded 5_retry/wake_deliveries.sql
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
      execute format('lock table webhookpub.%I in access exclusive mode', v_name);
      -- Whoever read an envelope before that, to replay it, has committed now.
      continue when v_table = 'envelopes'
        and webhookpub.envelopes_are_needed(v_end - interval '1 day', v_end);
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
