--! Previous: sha1:26b3420edd47a297139330457dc31d8c556c9a3d
--! Hash: sha1:57ac1a043b133c6ccdacd9e5f25cbb9e237b5bbe
--! Message: suspects in tenths

-- What two workers in a row were lost with is tried again a tenth at a time, not one by one.

alter table webhookpub.deliveries add column trial_size integer;
update webhookpub.deliveries
set trial_size = 1
where status = 'pending' and leased and lost_in_a_row > 1;
comment on column webhookpub.deliveries.trial_size is
  'How many of its like were under way at most when it was last tried as a suspect (due_suspects).';

drop function webhookpub.due_suspect (text[], timestamptz);
drop function webhookpub.due_deliveries (text[], integer[], timestamptz, text);
--! Included 3_deliver/due_suspects.sql
-- Picks the suspects that may be tried now. Two workers in a row were lost with each of them
-- under way: one may be what kills workers, the others only have been there. So they are tried
-- a tenth at a time, and those that another worker is lost with, a tenth of that at a time, in
-- the whole database. Innocents are soon through; what a worker is lost with that was tried
-- alone is the culprit (webhookpub.park_lost).
--
-- Called by  webhookpub.lease_deliveries, which lets nobody choose beside it;
--            webhookpub.wake_deliveries, webhookpub.record_attempts: for all webhooks (null).
-- Returns    their ids, and which webhooks they are of, or null; and how many may be under way
--            at once while these are.

create or replace function webhookpub.due_suspects (
  p_webhook_ids text[],
  p_now timestamptz,
  out ids text[],
  out webhook_ids text[],
  out trial_size integer
)
  language plpgsql
  volatile
  set plan_cache_mode = force_generic_plan
  set enable_hashjoin = off
  set enable_mergejoin = off
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_size integer;
  v_under_way integer;
begin
  -- By an index that is empty but for bad days.
  select (count(*) + 9) / 10 into v_size
  from webhookpub.deliveries as d
  where d.status = 'pending' and d.leased and d.lost_in_a_row > 0 and d.next_attempt_at <= p_now;
  if v_size = 0 then
    return;
  end if;
  -- As long as some of a trial are under way, its size holds.
  select count(*), coalesce(min(d.trial_size), v_size) into v_under_way, v_size
  from webhookpub.deliveries as d
  where d.status = 'pending' and d.leased and d.lost_in_a_row > 1 and d.next_attempt_at > p_now;
  select array_agg(c.id), array_agg(distinct c.webhook_id), min(c.size)
  into ids, webhook_ids, trial_size
  from (
    select
      s.id, s.webhook_id, s.most,
      row_number() over () as n,
      least(v_size, first_value(s.most) over ()) as size
    from (
      select d.id, d.webhook_id, coalesce((d.trial_size + 9) / 10, v_size) as most
      from webhookpub.deliveries as d
      where d.status = 'pending' and d.leased and d.lost_in_a_row > 0
        and d.next_attempt_at <= p_now
        and d.trial_size is distinct from 1
        and (p_webhook_ids is null or d.webhook_id = any (p_webhook_ids))
      order by most desc, d.next_attempt_at
    ) as s
    where exists (
      select
      from webhookpub.webhooks as w
      where w.id = s.webhook_id and w.enabled
        and webhookpub.requests_allowed(w, p_now) > (
          select count(*)
          from webhookpub.deliveries as b
          where b.webhook_id = w.id and b.status = 'pending' and b.leased
            and b.next_attempt_at > p_now
        )
    )
    limit greatest(v_size - v_under_way, 0)
  ) as c
  where c.n <= c.size - v_under_way and c.most >= c.size;
end;
$$;

comment on function webhookpub.due_suspects (text[], timestamptz) is
  'The deliveries of these webhooks (null: of all) that may be tried now though two workers were lost with them, and how many such may be under way at once.';
--! EndIncluded 3_deliver/due_suspects.sql
revoke execute on function webhookpub.due_suspects (text[], timestamptz) from public;
--! Included 3_deliver/due_deliveries.sql
-- Picks due deliveries of some webhooks, as many as each has room for, and locks them.
-- One whose circuit is open has none; when the pause is over, one, as a probe. Suspects
-- (webhookpub.due_suspects) come first. A webhook without a secret, as after a restore that
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
  p_suspects text[],
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
        where d.id = any (p_suspects) and d.webhook_id = w.id
        limit greatest(w.room, 0)
        for update skip locked
      ) as s
      union all
      -- Those whose worker was lost come first; whom two were lost with, only as p_suspects.
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

comment on function webhookpub.due_deliveries (text[], integer[], timestamptz, text[]) is
  'Locks due deliveries of these webhooks, at most p_limits of each, within max_in_flight and its circuit; returns their ids, and the webhooks that may have more.';
--! EndIncluded 3_deliver/due_deliveries.sql
revoke execute on function webhookpub.due_deliveries (text[], integer[], timestamptz, text[])
from public;
--! Included 3_deliver/lease_deliveries.sql
-- Leases due deliveries to a worker and says all that it needs to POST them.
--
-- Called by  the deliverer of a worker, for many webhooks at once.
-- Locks      each webhook's lease, for the length of this call, in the order of their
--            ids; then the deliveries, skipping those that somebody else holds; if there are
--            suspects, every other choice of such, which is not waited for.
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
  v_suspects text[];
  v_trial_size integer;
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
  if exists (
      select
      from webhookpub.deliveries as d
      where d.status = 'pending' and d.leased and d.lost_in_a_row > 0
        and d.next_attempt_at <= v_now
    )
    and pg_try_advisory_xact_lock(2003006834, 3)
  then
    select s.ids, s.trial_size into v_suspects, v_trial_size
    from webhookpub.due_suspects(p_webhook_ids, v_now) as s;
  end if;
  select d.due, d.cut_short, d.first_event_at, d.last_event_at
  into v_due, v_cut_short, v_first_event_at, v_last_event_at
  from webhookpub.due_deliveries(p_webhook_ids, p_limits, v_now, v_suspects) as d;
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
      trial_size = case when d.leased and d.lost_in_a_row > 0 then v_trial_size end,
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
  v_tried boolean;
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
    select d.id, d.webhook_id, d.status, d.leased, d.attempts, d.lost, d.max_attempts,
      d.lost_in_a_row > 1 as tried
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
      t.id, t.webhook_id, t.tried, a.succeeded, a.gone, a.outcome, a.status_code, a.error,
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
    array_agg(c.id) filter (where c.status = 'failed'),
    bool_or(c.tried)
  into v_gone, v_failed, v_tried
  from decided as c;

  if v_gone is not null then
    perform webhookpub.disable_webhooks(v_gone, 'gone');
  end if;
  if v_failed is not null then
    perform webhookpub.publish_delivery_failed(v_failed);
  end if;
  if v_tried then
    -- A suspect less is under way: the next may be tried.
    perform webhookpub.add_deliver_jobs(s.webhook_ids)
    from webhookpub.due_suspects(null, v_now) as s
    where s.webhook_ids is not null;
  end if;
end;
$$;

comment on function webhookpub.record_attempts
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[]) is
  'Records answers (parallel arrays) and moves each delivery to delivered, failed or its next attempt.';
--! EndIncluded 4_record/record_attempts.sql
--! Included 5_retry/park_lost.sql
-- Gives deliveries up that three workers in a row, or more, were lost with, the last time with
-- none of their like beside them (webhookpub.due_suspects).
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
    where d.status = 'pending' and d.leased and d.lost_in_a_row > 1 and d.trial_size = 1
      and d.next_attempt_at <= p_now
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
  'Fails the deliveries that at least three workers in a row were lost with, the last time alone, and publishes webhook.delivery_failed for each; returns how many.';
--! EndIncluded 5_retry/park_lost.sql
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
    -- And so is what was lost and waits to be tried.
    select v_webhook_ids || s.webhook_ids into v_webhook_ids
    from webhookpub.due_suspects(null, v_now) as s;
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
