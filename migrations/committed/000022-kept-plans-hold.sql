--! Previous: sha1:ee85188dccbe1e0465714b90f88f816c58a397ce
--! Hash: sha1:26b3420edd47a297139330457dc31d8c556c9a3d
--! Message: kept plans hold

-- A plan that a session has kept since tables were small looks up row by row.

--! Included 2_fan_out/fan_out_events.sql
-- Fans a batch out, in one statement: matches its events, inserts their first deliveries,
-- moves their bytes to where they are kept, and marks them processed or no_match.
--
-- Called by  webhookpub.fan_out_batch, public.webhook_publish.
-- Locks      the events, which the caller has locked; a delivery that is there already is
--            left alone.
-- Returns    how many deliveries are new, and the webhooks that they are for.
--
-- A few events go by a plan that is kept, for planning takes longer than the rest. It may have
-- been made when tables were small: so it looks up row by row, and never joins a whole table.
-- Many are worth a plan for their number.

create or replace function webhookpub.fan_out_events (
  p_events webhookpub.events[],
  out delivery_count bigint,
  out webhook_ids text[]
)
  language plpgsql
  volatile
  set plan_cache_mode = force_custom_plan
  set enable_hashjoin = on
  set enable_mergejoin = on
  set enable_seqscan = off
  set jit = off
as $$
begin
  if cardinality(p_events) <= 20 then
    perform pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true);
    perform pg_catalog.set_config('enable_hashjoin', 'off', true);
    perform pg_catalog.set_config('enable_mergejoin', 'off', true);
  end if;
  with event_type as materialized (
    select t.name, webhookpub.type_patterns(t.name) as patterns
    from (select distinct e.type as name from unnest(p_events) as e) as t
  ),
  -- At least one row for each event; without a webhook if none matches.
  matched as materialized (
    select
      e.id as event_id,
      e.type as event_type,
      e.message_id,
      e.created_at as event_created_at,
      w.id as webhook_id,
      cardinality(w.retry_schedule) + 1 as max_attempts
    from unnest(p_events) as e
    join event_type as t on t.name = e.type
    -- User by user, by one look into the index; "offset 0" keeps the planner from joining.
    left join lateral (
      select w.id, w.retry_schedule
      from webhookpub.webhooks as w
      where w.user_id = e.user_id
        and webhookpub.unmatched_clause(
          w,
          e,
          t.patterns,
          -- Parsed only for webhooks that filter by it.
          case when w.filter_data is not null
            then coalesce(e.envelope, webhookpub.stored_envelope(e.id, e.created_at))::jsonb
              -> 'data'
          end
        ) is null
      offset 0
    ) as w on true
  ),
  -- Random bytes are dear: one id is made for the batch, and a number in its midst tells its
  -- deliveries apart. They then go to the right edge of the index one after the other.
  batch as materialized (
    select
      c.at, left(i.id, 16) as prefix, right(i.id, 14) as suffix,
      c.at + (select s.delivery_retention from webhookpub.settings as s) as expires_at
    from (select clock_timestamp() as at) as c
    cross join lateral (select webhookpub.delivery_id(c.at) as id offset 0) as i
  ),
  created as (
    insert into webhookpub.deliveries as d
      (id, webhook_id, event_id, event_type, event_created_at, message_id, max_attempts,
       next_attempt_at, created_at, expires_at)
    select
      b.prefix || lpad(to_hex(row_number() over ()), 6, '0') || b.suffix,
      m.webhook_id, m.event_id, m.event_type, m.event_created_at, m.message_id,
      m.max_attempts, b.at, b.at, b.expires_at
    from matched as m
    cross join batch as b
    where m.webhook_id is not null
    on conflict (event_id, webhook_id) where replay_id is null do nothing
    returning d.webhook_id
  ),
  moved as (
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select p.id, p.created_at, p.user_id, p.envelope
    from unnest(p_events) as p
    where p.envelope is not null
  ),
  marked as (
    update webhookpub.events as e
    set
      status = (
        case when m.webhook_ids is null then 'no_match' else 'processed' end
      )::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.webhook_ids, '{}'),
      envelope = null,
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from (
      select
        g.event_id,
        array_agg(g.webhook_id order by g.webhook_id)
          filter (where g.webhook_id is not null) as webhook_ids
      from matched as g
      group by g.event_id
    ) as m
    where e.id = m.event_id
  )
  select count(*), array_agg(distinct c.webhook_id)
  into delivery_count, webhook_ids
  from created as c;
end;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[]) is
  'Matches events against their users'' webhooks, inserts the first deliveries and marks the events processed or no_match.';
--! EndIncluded 2_fan_out/fan_out_events.sql
--! Included 2_fan_out/enter_fan_out.sql
-- Lets a worker become an awake fan-out, if there is room for one more.
--
-- Called by  a worker that heard of events, on a connection of its own.
-- Locks      one of two seats, so that a stopped process can hold up only one of them,
--            and the shared lock by which publishers know that somebody is awake. Both
--            are held by the session until webhookpub.leave_fan_out.
-- Returns    false when both seats are taken: then there is nothing to do.

create or replace function webhookpub.enter_fan_out ()
  returns boolean
  language plpgsql
  volatile
as $$
begin
  if pg_catalog.pg_try_advisory_lock(2003006832, 2)
    or pg_catalog.pg_try_advisory_lock(2003006832, 3)
  then
    perform pg_catalog.pg_advisory_lock_shared(2003006832, 1);
    return true;
  end if;
  return false;
end;
$$;

comment on function webhookpub.enter_fan_out () is
  'Takes a seat as an awake fan-out, for this session; false when all seats are taken.';
--! EndIncluded 2_fan_out/enter_fan_out.sql
--! Included 2_fan_out/leave_fan_out.sql
-- Gives the seat of an awake fan-out back.
--
-- Called by  an awake fan-out, on the connection that entered.

create or replace function webhookpub.leave_fan_out ()
  returns void
  language sql
  volatile
as $$
  select pg_catalog.pg_advisory_unlock_all();
$$;

comment on function webhookpub.leave_fan_out () is
  'Gives back what webhookpub.enter_fan_out took.';
--! EndIncluded 2_fan_out/leave_fan_out.sql
--! Included 3_deliver/lease_deliveries.sql
-- Leases due deliveries to a worker and says all that it needs to POST them.
--
-- Called by  the deliverer of a worker, for many webhooks at once.
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
  set plan_cache_mode = force_generic_plan
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
  v_first_event_at timestamptz;
  v_last_event_at timestamptz;
begin
  -- A statement of its own: the next one must see what the last holder did.
  perform pg_advisory_xact_lock(2003006833, hashtext(o.id))
  from (select distinct p.id from unnest(p_webhook_ids) as p (id) order by p.id) as o;
  v_now := clock_timestamp();
  v_seconds := floor(extract(epoch from v_now));
  select d.due, d.cut_short, d.first_event_at, d.last_event_at
  into v_due, v_cut_short, v_first_event_at, v_last_event_at
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
      -- So that only the partitions of these days are opened.
      and n.created_at between v_first_event_at and v_last_event_at
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
--! Included 4_record/record_attempts.sql
-- Records what came back, and decides what becomes of each delivery.
--
-- Called by  the deliverer of a worker, for many requests at once; safe to repeat.
-- Locks      the deliveries, in the order of their ids; webhooks only when their health
--            changes.
-- Returns    nothing: whatever is to happen next stands in the tables.
--
-- Every answer is kept as an attempt. An answer counts if it is to the latest attempt of
-- a pending delivery; a late 2xx counts as long as the delivery is pending. Anything else
-- changes nothing, so that state never goes back.
--
-- A few answers go by a plan that is kept, for planning takes longer than the rest. It may have
-- been made when tables were small: so it looks up row by row, and never joins a whole table.
-- Many are worth a plan for their number.
--
-- A webhook's circuit opens when too many of its attempts in a row got no HTTP answer
-- (webhookpub.circuit_pause), and closes with the first one, whatever its status.

create or replace function webhookpub.record_attempts (
  p_delivery_ids text[],
  p_attempts integer[],
  p_started_at timestamptz[],
  p_durations_ms integer[],
  p_outcomes text[],
  p_status_codes integer[],
  p_errors text[],
  p_response_bodies text[],
  p_retry_afters text[]
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set enable_hashjoin = on
  set enable_mergejoin = on
  set enable_seqscan = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  -- Not joined: the planner takes the one row of settings for hundreds, and would read every
  -- webhook.
  v_min_failures constant integer := (
    select s.auto_disable_min_failures from webhookpub.settings as s
  );
  v_gone text[];
  v_failed text[];
begin
  if cardinality(p_delivery_ids) <= 20 then
    perform set_config('plan_cache_mode', 'force_generic_plan', true);
    perform set_config('enable_hashjoin', 'off', true);
    perform set_config('enable_mergejoin', 'off', true);
  end if;
  with answer as materialized (
    select
      r.delivery_id, r.attempt, r.started_at, r.duration_ms, r.outcome, r.status_code,
      r.response_body, r.retry_after,
      case when (r.status_code between 200 and 299) is not true
        then coalesce(r.error, 'HTTP ' || r.status_code)
      end as error,
      coalesce(r.status_code between 200 and 299, false) as succeeded,
      coalesce(r.status_code = 410, false) as gone
    from unnest(
      p_delivery_ids, p_attempts, p_started_at, p_durations_ms, p_outcomes,
      p_status_codes, p_errors, p_response_bodies, p_retry_afters
    ) as r (
      delivery_id, attempt, started_at, duration_ms, outcome,
      status_code, error, response_body, retry_after
    )
  ),
  target as materialized (
    select d.id, d.webhook_id, d.status, d.leased, d.attempts, d.lost, d.max_attempts
    from webhookpub.deliveries as d
    where d.id = any (p_delivery_ids)
    order by d.id
    for update
  ),
  kept as (
    insert into webhookpub.attempts
      (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error,
       response_body, webhook_id)
    select
      a.delivery_id, a.attempt, a.started_at, a.duration_ms, a.outcome, a.status_code,
      a.error, a.response_body, t.webhook_id
    from answer as a
    join target as t on t.id = a.delivery_id
    on conflict do nothing
  ),
  decided as materialized (
    select distinct on (t.id)
      t.id, t.webhook_id, a.succeeded, a.gone, a.outcome, a.status_code, a.error,
      case
        when a.succeeded then 'delivered'
        when a.gone or t.attempts - t.lost >= t.max_attempts then 'failed'
        else 'pending'
      end as status,
      case when not a.succeeded then webhookpub.next_attempt_at(
        w.retry_schedule,
        t.attempts - t.lost,
        case when a.status_code in (429, 503) then webhookpub.retry_after(a.retry_after, v_now) end,
        v_now
      ) end as next_attempt_at
    from answer as a
    join target as t on t.id = a.delivery_id
    join webhookpub.webhooks as w on w.id = t.webhook_id
    where t.status = 'pending' and ((t.leased and a.attempt = t.attempts) or a.succeeded)
    order by t.id, a.succeeded desc
  ),
  updated as (
    update webhookpub.deliveries as d
    set
      status = c.status,
      leased = false,
      next_attempt_at = case when c.status = 'pending' then c.next_attempt_at end,
      delivered_at = case when c.status = 'delivered' then v_now end,
      last_status_code = c.status_code,
      last_error = c.error
    from decided as c
    where d.id = c.id
  ),
  health as (
    select
      c.webhook_id,
      bool_or(c.succeeded) as succeeded,
      count(*) as attempts,
      bool_or(c.outcome = 'responded') as answered
    from decided as c
    group by c.webhook_id
  ),
  changed as materialized (
    select
      w.id, h.succeeded, h.attempts, h.answered,
      -- While a circuit is open, only a probe counts, and what is as late as one.
      case
        when h.answered then 0
        when w.circuit_opened_at is null then w.unanswered + h.attempts
        when w.circuit_retry_at <= v_now then w.unanswered + 1
        else w.unanswered
      end::integer as unanswered
    from health as h
    join webhookpub.webhooks as w on w.id = h.webhook_id
    where case
      when h.succeeded then
        w.failing_since is not null
        or w.last_delivered_at is null
        or w.last_delivered_at < v_now - interval '10 seconds'
      else w.failing_since is null or w.failures < v_min_failures
    end
    or case
      when h.answered then w.unanswered > 0
      else w.circuit_opened_at is null or w.circuit_retry_at <= v_now
    end
    order by w.id
    for no key update of w
  ),
  rated as (
    update webhookpub.webhooks as w
    set
      last_delivered_at = case when c.succeeded then v_now else w.last_delivered_at end,
      failing_since = case when not c.succeeded then coalesce(w.failing_since, v_now) end,
      failures = case when c.succeeded then 0 else w.failures + c.attempts end,
      unanswered = c.unanswered,
      circuit_opened_at =
        case when c.pause is not null then coalesce(w.circuit_opened_at, v_now) end,
      circuit_retry_at = case
        when c.unanswered = w.unanswered then w.circuit_retry_at
        else v_now + c.pause
      end
    from (select c.*, webhookpub.circuit_pause(c.unanswered) as pause from changed as c) as c
    where w.id = c.id
  )
  select
    array_agg(distinct c.webhook_id) filter (where c.gone),
    array_agg(c.id) filter (where c.status = 'failed')
  into v_gone, v_failed
  from decided as c;

  if v_gone is not null then
    perform webhookpub.disable_webhooks(v_gone, 'gone');
  end if;
  if v_failed is not null then
    perform webhookpub.publish_delivery_failed(v_failed);
  end if;
end;
$$;

comment on function webhookpub.record_attempts
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[]) is
  'Records answers (parallel arrays) and moves each delivery to delivered, failed or its next attempt.';
--! EndIncluded 4_record/record_attempts.sql
--! Included 5_retry/wake.sql
-- The tick: makes sure that whatever is due has a job.
--
-- Called by  every worker, once a second and by an awake fan-out every 50 ms, for the last
--            seconds only, and every 20 s over all time; webhookpub.maintain, the same.
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
--! Included 5_retry/wake_deliveries.sql
-- Finds webhooks with due deliveries and room for a request, and wakes a worker: due
-- retries, expired leases, lost jobs and probes of open circuits are one and the same here.
--
-- Called by  webhookpub.wake.
-- Returns    how many webhooks were woken.
--
-- A tick looks at what became due last, and at no more of it than it can read in passing:
-- what it does not come to is found within 20 s, by one that looks at everything.

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
  from (select distinct i.id from unnest(v_webhook_ids) as i (id)) as p
  -- One by one, by one look into each index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select w.id
    from webhookpub.webhooks as w
    where w.id = p.id and w.enabled
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
      )
    offset 0
  ) as w;
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
--! Included 6_maintain/maintain.sql
-- One round of upkeep. With nothing to do it costs almost nothing.
--
-- Called by  the task webhook_maintain, once a minute until nothing is left to do; psql.
-- Locks      one advisory lock, so that rounds do not meet; a second one does nothing.
-- Returns    what was done and to how many.

create or replace function webhookpub.maintain ()
  returns table (
    task text,
    affected bigint
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_settings webhookpub.settings;
  v_expired record;
  v_changed boolean;
begin
  if not pg_try_advisory_xact_lock(2003006834, 1) then
    return;
  end if;
  select s.* into v_settings from webhookpub.settings as s;
  perform webhookpub.wake();

  return query values
    ('disable_failing', webhookpub.disable_failing(v_now)),
    ('cancel_deleted', webhookpub.cancel_deleted()),
    ('delete_failed_jobs', webhookpub.delete_failed_jobs(v_now));

  task := 'expire_secrets';
  delete from webhookpub.secrets as s where s.expires_at <= v_now;
  get diagnostics affected = row_count;
  return next;

  v_expired := webhookpub.delete_expired(5000, v_now);
  return query values
    ('delete_events', v_expired.events),
    ('delete_deliveries', v_expired.deliveries);

  -- The locks of one table only, in one round: with them held, it never waits for another.
  task := 'drop_partitions';
  affected := webhookpub.drop_partitions(
    'webhookpub.envelopes', v_now - v_settings.event_retention
  );
  if affected = 0 then
    affected := webhookpub.drop_partitions(
      'webhookpub.attempts', v_now - v_settings.attempt_retention
    );
  end if;
  v_changed := affected > 0;
  return next;

  task := 'create_partitions';
  affected := 0;
  if not v_changed then
    affected := webhookpub.create_partitions('webhookpub.envelopes');
    if affected = 0 then
      affected := webhookpub.create_partitions('webhookpub.attempts');
    end if;
  end if;
  return next;
end;
$$;

comment on function webhookpub.maintain () is
  'One round of upkeep: wakes what is due, disables failing webhooks, removes what has expired, keeps the partitions. Returns what it did.';
--! EndIncluded 6_maintain/maintain.sql

comment on table webhookpub.settings is
  'One row. A change counts from the next statement on; event_retention and delivery_retention for rows written after it.';
comment on column webhookpub.events.attempts is 'How often its fan-out was tried.';
