--! Previous: sha1:637ddfc9417d644f3a0fbb01c4197ef936d6763f
--! Hash: sha1:c7fce49722c197425c7fb1c84f85a57fff426c32
--! Message: parked deliveries

-- A delivery that three workers in a row were lost with is given up.

alter table webhookpub.deliveries
  add column lost_in_a_row integer not null default 0;
-- It is built on the pending ones that a worker has: few, whatever the table's size.
-- squawk-ignore require-concurrent-index-creation
create index deliveries_lost
  on webhookpub.deliveries (next_attempt_at, lost_in_a_row)
  where status = 'pending' and leased and lost_in_a_row > 0;

comment on column webhookpub.deliveries.lost_in_a_row is
  'Attempts whose worker never answered, since the last answer; with the third it is parked.';

drop function webhookpub.due_deliveries (text[], integer[], timestamptz);
--! Included 3_deliver/due_suspect.sql
-- Picks the one delivery that may be tried alone now. Two workers in a row were lost with it
-- under way: it may be what killed them, or only have been there. One such delivery at a
-- time, in the whole database, so that the next loss tells.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      until the lease has committed, every other choice of this kind; it is not
--            waited for.
-- Returns    its id, or null.

create or replace function webhookpub.due_suspect (
  p_webhook_ids text[],
  p_now timestamptz
)
  returns text
  language plpgsql
  volatile
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
begin
  -- An index that is empty but for bad days says so.
  if not exists (
    select
    from webhookpub.deliveries as d
    where d.status = 'pending' and d.leased and d.lost_in_a_row > 0 and d.next_attempt_at <= p_now
  ) then
    return null;
  end if;
  if not pg_catalog.pg_try_advisory_xact_lock(2003006834, 3) then
    return null;
  end if;
  return (
    select d.id
    from webhookpub.deliveries as d
    join webhookpub.webhooks as w on w.id = d.webhook_id
    where d.status = 'pending' and d.leased and d.lost_in_a_row = 1 and d.next_attempt_at <= p_now
      and d.webhook_id = any (p_webhook_ids)
      and w.enabled
      and webhookpub.requests_allowed(w, p_now) > (
        select count(*)
        from webhookpub.deliveries as b
        where b.webhook_id = d.webhook_id and b.status = 'pending' and b.leased
          and b.next_attempt_at > p_now
      )
      and not exists (
        select
        from webhookpub.deliveries as o
        where o.status = 'pending' and o.leased and o.lost_in_a_row > 1
      )
    order by d.next_attempt_at
    limit 1
  );
end;
$$;

comment on function webhookpub.due_suspect (text[], timestamptz) is
  'The delivery of one of these webhooks that may be tried alone now, for two workers were lost with it; null if there is none, or another is being tried.';
--! EndIncluded 3_deliver/due_suspect.sql
--! Included 3_deliver/due_deliveries.sql
-- Picks due deliveries of some webhooks, as many as each has room for, and locks them.
-- One whose circuit is open has none; when the pause is over, one, as a probe. A suspect
-- (webhookpub.due_suspect) comes first.
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
--! Included 3_deliver/lease_deliveries.sql
-- Leases due deliveries to a worker and says all that it needs to POST them.
--
-- Called by  the task webhook_deliver, for many webhooks at once.
-- Locks      each webhook's lease, for the length of this call, in the order of their
--            ids; then the deliveries, skipping those that somebody else holds.
-- Returns    one row for each leased delivery. timeout_ms is the deadline of the whole
--            exchange; the lease lasts 15 s longer, so that its answer can be recorded.
--            more: the webhook used up its room, so there may be more that is due.
--
-- The lease is next_attempt_at itself: an answer, a retry and a worker that died are all
-- the same thing, a pending row that is due or not.

create or replace function webhookpub.lease_deliveries (
  p_webhook_ids text[],
  p_limits integer[] default null
)
  returns table (
    webhook_id text,
    delivery_id text,
    attempt integer,
    started_at timestamptz,
    timeout_ms integer,
    url text,
    headers jsonb,
    body text,
    allow_http boolean,
    allowed_networks text[],
    more boolean
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_seconds bigint;
  v_settings webhookpub.settings;
  v_due text[];
  v_cut_short text[];
begin
  -- A statement of its own: the next one must see what the last holder did.
  perform pg_advisory_xact_lock(2003006833, hashtext(o.id))
  from (select distinct p.id from unnest(p_webhook_ids) as p (id) order by p.id) as o;
  v_now := clock_timestamp();
  v_seconds := floor(extract(epoch from v_now));
  select d.due, d.cut_short into v_due, v_cut_short
  from webhookpub.due_deliveries(
    p_webhook_ids, p_limits, v_now, webhookpub.due_suspect(p_webhook_ids, v_now)
  ) as d;
  if v_due is null then
    return;
  end if;
  select s.* into v_settings from webhookpub.settings as s;

  return query
  with leased as (
    update webhookpub.deliveries as d
    set
      leased = true,
      lost = d.lost + d.leased::integer,
      -- Any answer has ended the lease: then this begins anew.
      lost_in_a_row = case when d.leased then d.lost_in_a_row + 1 else 0 end,
      attempts = d.attempts + 1,
      last_attempt_at = v_now,
      next_attempt_at = v_now + interval '15 seconds' + coalesce(
        (select w.request_timeout from webhookpub.webhooks as w where w.id = d.webhook_id),
        v_settings.request_timeout
      )
    where d.id = any (v_due)
    returning d.id, d.webhook_id, d.event_id, d.event_type, d.event_created_at, d.attempts
  )
  select
    l.webhook_id,
    l.id,
    l.attempts,
    v_now,
    (extract(epoch from coalesce(w.request_timeout, v_settings.request_timeout)) * 1000)::integer,
    w.url,
    w.headers || jsonb_build_object(
      'content-type', 'application/json',
      'user-agent', 'webhookpub/' || webhookpub.version(),
      'accept-encoding', 'identity',
      'webhook-event-type', l.event_type,
      'webhook-delivery-id', l.id,
      'webhook-attempt', l.attempts::text
    ) || case w.signature_scheme
      when 'stripe' then jsonb_build_object(
        'x-webhook-signature', 't=' || v_seconds || ',' || g.stripe
      )
      else jsonb_build_object(
        'webhook-id', l.event_id,
        'webhook-timestamp', v_seconds::text,
        'webhook-signature', g.standard
      )
    end,
    n.body,
    v_settings.allow_http,
    v_settings.allowed_networks::text[],
    coalesce(l.webhook_id = any (v_cut_short), false)
  from leased as l
  -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select w.* from webhookpub.webhooks as w where w.id = l.webhook_id offset 0
  ) as w
  cross join lateral (
    select n.body
    from webhookpub.envelopes as n
    where n.event_id = l.event_id and n.created_at = l.event_created_at
    offset 0
  ) as n
  cross join lateral (
    select
      string_agg(
        case when w.signature_scheme = 'standard'
          then webhookpub.sign_standard(k.secret, l.event_id, v_seconds, n.body)
        end,
        ' ' order by k.id desc
      ) as standard,
      string_agg(
        case when w.signature_scheme = 'stripe'
          then webhookpub.sign_stripe(k.secret, v_seconds, n.body)
        end,
        ',' order by k.id desc
      ) as stripe
    from webhookpub.secrets as k
    where k.webhook_id = w.id and (k.expires_at is null or k.expires_at > v_now)
  ) as g;
end;
$$;

comment on function webhookpub.lease_deliveries (text[], integer[]) is
  'Leases due deliveries of these webhooks, at most p_limits of each, within max_in_flight; returns the requests, signed.';
--! EndIncluded 3_deliver/lease_deliveries.sql
--! Included 5_retry/park_lost.sql
-- Gives deliveries up that three workers in a row were lost with, the last time with none of
-- their like beside them.
--
-- Called by  webhookpub.wake.
-- Locks      those deliveries, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.park_lost (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_ids text[];
begin
  select array_agg(l.id) into v_ids
  from (
    select d.id
    from webhookpub.deliveries as d
    where d.status = 'pending' and d.leased and d.lost_in_a_row > 1 and d.next_attempt_at <= p_now
    for update skip locked
  ) as l;
  if v_ids is null then
    return 0;
  end if;
  update webhookpub.deliveries as d
  set
    status = 'failed',
    leased = false,
    lost = d.lost + 1,
    lost_in_a_row = d.lost_in_a_row + 1,
    next_attempt_at = null,
    last_status_code = null,
    last_error = format('parked: its worker was lost %s times in a row', d.lost_in_a_row + 1)
  where d.id = any (v_ids);
  perform webhookpub.publish_delivery_failed(v_ids);
  return cardinality(v_ids);
end;
$$;

comment on function webhookpub.park_lost (timestamptz) is
  'Fails the deliveries that three workers in a row were lost with, and publishes webhook.delivery_failed for each; returns how many.';
--! EndIncluded 5_retry/park_lost.sql
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
--! Included 5_retry/wake.sql
-- The tick: makes sure that whatever is due has a job.
--
-- Called by  the wake-up plugin of every worker, once a second and on a NOTIFY, for
--            the last seconds only; webhookpub.maintain, over all time.
-- Locks      none that anybody waits for.

create or replace function webhookpub.wake (
  p_window interval default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_oldest timestamptz;
begin
  select e.created_at into v_oldest
  from webhookpub.events as e
  where e.status = 'pending' and (e.retry_at is null or e.retry_at <= v_now)
  order by e.expires_at
  limit 1;
  -- An awake fan-out finds it by itself, unless its process has been stopped.
  if v_oldest is not null
    and (v_oldest < v_now - interval '2 seconds' or webhookpub.fan_out_is_asleep())
  then
    perform graphile_worker.add_job(
      'webhook_fan_out', job_key => 'webhook_fan_out', priority => -1
    );
  end if;
  perform webhookpub.park_lost(v_now);
  perform webhookpub.wake_deliveries(
    case when p_window < '100 years' then v_now - greatest(p_window, '0') else '-infinity' end
  );
end;
$$;

comment on function webhookpub.wake (interval) is
  'Adds the jobs that are missing: a fan-out for pending events, a delivery for each webhook with something that became due within the window (null: ever).';
--! EndIncluded 5_retry/wake.sql
revoke execute on function webhookpub.due_suspect (text[], timestamptz) from public;
revoke execute on function webhookpub.due_deliveries (text[], integer[], timestamptz, text)
  from public;
revoke execute on function webhookpub.park_lost (timestamptz) from public;
