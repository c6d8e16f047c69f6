--! Previous: sha1:fccf6c6b0e4cbe94b15b307850b9eeaaf332e3e6
--! Hash: sha1:538c817b95263eefcc40fcfc0b9cb8bb51fe14a3
--! Message: small batches by kept plans

-- Planning took longer than a small batch itself, in every stage from the fan-out to the record.

--! Included 2_fan_out/type_patterns.sql
-- Lists every entry of webhooks.events that an event type satisfies.
--
-- Called by  webhookpub.fan_out_events, webhookpub.explain_event, webhookpub.check_events.
-- Returns    for email.sent: {*, email.*, email.sent}. One array overlap then decides.
--
-- PL/pgSQL keeps the plan; as an SQL function it took as long as the rest of a small fan-out.

create or replace function webhookpub.type_patterns (
  p_event_type text
)
  returns text[]
  language plpgsql
  immutable
  strict
  parallel safe
as $$
begin
  return (
    select array_agg(
      case
        when n.words = 0 then '*'
        when n.words = cardinality(t.words) then p_event_type
        else array_to_string(t.words[1 : n.words], '.') || '.*'
      end
      order by n.words
    )
    from (select string_to_array(p_event_type, '.') as words) as t
    cross join generate_series(0, cardinality(t.words)) as n (words)
  );
end;
$$;

comment on function webhookpub.type_patterns (text) is
  'The entries of webhooks.events that match this type: *, each prefix with .*, and itself.';
--! EndIncluded 2_fan_out/type_patterns.sql
--! Included 2_fan_out/fan_out_events.sql
-- Fans a batch out, in one statement: matches its events, inserts their first deliveries,
-- moves their bytes to where they are kept, and marks them processed or no_match.
--
-- Called by  webhookpub.fan_out_batch, public.webhook_publish.
-- Locks      the events, which the caller has locked; a delivery that is there already is
--            left alone.
-- Returns    how many deliveries are new, and the webhooks that they are for.
--
-- A few events go by a plan that is kept, for planning takes longer than the rest; many are
-- worth a plan for their number.

create or replace function webhookpub.fan_out_events (
  p_events webhookpub.events[],
  out delivery_count bigint,
  out webhook_ids text[]
)
  language plpgsql
  volatile
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
begin
  if cardinality(p_events) <= 20 then
    perform pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true);
  end if;
  with event_type as materialized (
    select t.name, webhookpub.type_patterns(t.name) as patterns
    from (select distinct e.type as name from unnest(p_events) as e) as t
  ),
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
    join webhookpub.webhooks as w on w.user_id = e.user_id
    where webhookpub.unmatched_clause(
      w,
      e,
      t.patterns,
      -- Parsed only for webhooks that filter by it.
      case when w.filter_data is not null
        then coalesce(e.envelope, webhookpub.stored_envelope(e.id, e.created_at))::jsonb -> 'data'
      end
    ) is null
  ),
  -- Random bytes are dear: one id is made for the batch, and a number in its midst tells its
  -- deliveries apart. They then go to the right edge of the index one after the other.
  batch as materialized (
    select c.at, left(i.id, 16) as prefix, right(i.id, 14) as suffix
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
      m.max_attempts, b.at, b.at, b.at + s.delivery_retention
    from matched as m
    cross join webhookpub.settings as s
    cross join batch as b
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
        case when m.event_id is null then 'no_match' else 'processed' end
      )::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.webhook_ids, '{}'),
      envelope = null,
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from unnest(p_events) as p
    left join (
      select g.event_id, array_agg(g.webhook_id order by g.webhook_id) as webhook_ids
      from matched as g
      group by g.event_id
    ) as m on m.event_id = p.id
    where e.id = p.id
  )
  select count(*), array_agg(distinct c.webhook_id)
  into delivery_count, webhook_ids
  from created as c;
end;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[]) is
  'Matches events against their users'' webhooks, inserts the first deliveries and marks the events processed or no_match.';
--! EndIncluded 2_fan_out/fan_out_events.sql
drop function webhookpub.due_deliveries (text[], integer[], timestamptz, text);
--! Included 3_deliver/due_deliveries.sql
-- Picks due deliveries of some webhooks, as many as each has room for, and locks them.
-- One whose circuit is open has none; when the pause is over, one, as a probe. A suspect
-- (webhookpub.due_suspect) comes first. A webhook without a secret, as after a restore that
-- left them out, waits for webhookpub.rotate_secret: nothing goes out unsigned.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    their ids, or null; the webhooks of which there may be more: those that used
--            up their room; and between when their events were published.

create or replace function webhookpub.due_deliveries (
  p_webhook_ids text[],
  p_limits integer[],
  p_now timestamptz,
  p_suspect text,
  out due text[],
  out cut_short text[],
  out first_event_at timestamptz,
  out last_event_at timestamptz
)
  language plpgsql
  volatile
  -- From few webhooks to few deliveries, by index, whatever stale statistics say: there is
  -- only this one plan, and making it takes longer than the rest.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
begin
  select
    array_agg(f.id), array_agg(w.id) filter (where f.n = w.room),
    min(f.event_created_at), max(f.event_created_at)
  into due, cut_short, first_event_at, last_event_at
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
    select u.id, u.event_created_at, row_number() over () as n
    from (
      select s.id, s.event_created_at
      from (
        select d.id, d.event_created_at
        from webhookpub.deliveries as d
        where d.id = p_suspect and d.webhook_id = w.id and w.room > 0
        for update skip locked
      ) as s
      union all
      -- Those whose worker was lost come first; whom two were lost with, only as p_suspect.
      select l.id, l.event_created_at
      from (
        select d.id, d.event_created_at
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and d.leased
          and d.next_attempt_at <= p_now and d.lost_in_a_row = 0
        order by d.next_attempt_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as l
      union all
      select r.id, r.event_created_at
      from (
        select d.id, d.event_created_at
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
end;
$$;

comment on function webhookpub.due_deliveries (text[], integer[], timestamptz, text) is
  'Locks due deliveries of these webhooks, at most p_limits of each, within max_in_flight and its circuit; returns their ids, and the webhooks that may have more.';
--! EndIncluded 3_deliver/due_deliveries.sql
revoke execute on function webhookpub.due_deliveries (text[], integer[], timestamptz, text)
  from public;
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
-- Called by  the task webhook_deliver, for many requests at once; safe to repeat.
-- Locks      the deliveries, in the order of their ids; webhooks only when their health
--            changes.
-- Returns    nothing: whatever is to happen next stands in the tables.
--
-- Every answer is kept as an attempt. An answer counts if it is to the latest attempt of
-- a pending delivery; a late 2xx counts as long as the delivery is pending. Anything else
-- changes nothing, so that state never goes back.
--
-- A few answers go by a plan that is kept, for planning takes longer than the rest; many are
-- worth a plan for their number.
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
  set enable_seqscan = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_gone text[];
  v_failed text[];
begin
  if cardinality(p_delivery_ids) <= 20 then
    perform set_config('plan_cache_mode', 'force_generic_plan', true);
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
    cross join webhookpub.settings as s
    where case
      when h.succeeded then
        w.failing_since is not null
        or w.last_delivered_at is null
        or w.last_delivered_at < v_now - interval '10 seconds'
      else w.failing_since is null or w.failures < s.auto_disable_min_failures
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
--! Included 0_roles/grant_functions.sql
-- Says which role may call which function.
--
-- Called by  webhookpub.install_roles.
--
-- A function that stands here for nobody is called by other functions only.

create or replace function webhookpub.grant_functions ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  grant usage on schema webhookpub to
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;
  revoke all on all functions in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant execute on function
    public.webhook_publish_tx, public.webhook_publish_best_effort_tx, public.webhook_publish,
    -- random_hex is what random_event_id is made of.
    webhookpub.random_event_id, webhookpub.random_hex
  to webhookpub_publisher;

  grant execute on function
    webhookpub.closed_networks,
    webhookpub.wake, webhookpub.enter_fan_out, webhookpub.leave_fan_out, webhookpub.fan_out,
    webhookpub.fan_out_batch, webhookpub.lease_deliveries, webhookpub.record_attempts,
    webhookpub.maintain
  to webhookpub_worker;

  -- The secret that create_webhook and rotate_secret make is shown to their caller; no
  -- function shows one that exists.
  grant execute on function
    webhookpub.create_webhook, webhookpub.update_webhook, webhookpub.rotate_secret,
    webhookpub.enable_webhook, webhookpub.disable_webhook, webhookpub.delete_webhook,
    webhookpub.redeliver, webhookpub.redeliver_since, webhookpub.test_webhook,
    webhookpub.retry_publish_failures,
    webhookpub.fan_out, webhookpub.maintain
  to webhookpub_operator;

  -- What explain_event calls runs as its caller, so that it shows what its caller may see.
  grant execute on function
    webhookpub.explain_event, webhookpub.stored_envelope, webhookpub.type_patterns,
    webhookpub.unmatched_clause, webhookpub.data_holds, webhookpub.current_user_id
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.event_id, webhookpub.is_valid_event_type
  to webhookpub_publisher, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.version
  to webhookpub_worker, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
end;
$$;

comment on function webhookpub.grant_functions () is
  'Gives each role webhookpub_* the functions that it may call, and no others.';
--! EndIncluded 0_roles/grant_functions.sql
select webhookpub.install_roles();
