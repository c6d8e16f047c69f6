--! Previous: sha1:8e1d4656e8f7a500038270d87a55674a8a89c8b7
--! Hash: sha1:645712941224e6728deb5b72e6603d18cf26a651
--! Message: circuit

-- A circuit for each webhook: what does not answer is left alone for a while.

alter table webhookpub.webhooks
  add column unanswered integer not null default 0,
  add column circuit_opened_at timestamptz,
  add column circuit_retry_at timestamptz
    constraint webhooks_circuit_is_tried_iff_open
    check ((circuit_opened_at is null) = (circuit_retry_at is null));
-- A small table that is rarely written: nobody waits long.
-- squawk-ignore require-concurrent-index-creation
create index webhooks_circuit_retry
  on webhookpub.webhooks (circuit_retry_at) where circuit_retry_at is not null;

comment on column webhookpub.webhooks.unanswered is
  'Attempts in a row without an HTTP answer; while the circuit is open, only probes count.';
comment on column webhookpub.webhooks.circuit_opened_at is
  'Since when its receiver is left alone because it does not answer; null while it does.';
comment on column webhookpub.webhooks.circuit_retry_at is
  'When the next delivery goes out as a probe; an answer to it closes the circuit.';

--! Included 4_record/circuit_pause.sql
-- Says how long a webhook is left alone that did not answer so many times in a row.
--
-- Called by  webhookpub.record_attempts.
-- Returns    null while its circuit stays closed; from the fifth on 10 s, doubled each
--            time, up to 5 min, with up to 10 % jitter either way.

create or replace function webhookpub.circuit_pause (
  p_unanswered integer
)
  returns interval
  language sql
  volatile
  parallel safe
return case
  when p_unanswered >= 5 then
    interval '1 second'
      * least(10 * 2 ^ least(p_unanswered - 5, 10), 300)
      * (0.9 + 0.2 * random())
end;

comment on function webhookpub.circuit_pause (integer) is
  'How long the circuit of a webhook is open after so many attempts in a row without an answer; null: not at all.';
--! EndIncluded 4_record/circuit_pause.sql
--! Included 3_deliver/requests_allowed.sql
-- Says how many requests a webhook may have under way now: max_in_flight of them; while
-- its circuit is open none, and one when the pause is over, to try.
--
-- Called by  webhookpub.due_deliveries, webhookpub.wake_deliveries, per row: no pinned
--            path, so that it is inlined.

create or replace function webhookpub.requests_allowed (
  p_webhook webhookpub.webhooks,
  p_now timestamptz
)
  returns integer
  language sql
  immutable
  parallel safe
return case
  when p_webhook.circuit_retry_at > p_now then 0
  when p_webhook.circuit_retry_at <= p_now then 1
  else p_webhook.max_in_flight
end;

comment on function webhookpub.requests_allowed (webhookpub.webhooks, timestamptz) is
  'How many requests of a webhook may be under way: max_in_flight, or by its circuit 0 or 1.';
--! EndIncluded 3_deliver/requests_allowed.sql
revoke execute on function webhookpub.circuit_pause (integer) from public;
revoke execute on function webhookpub.requests_allowed (webhookpub.webhooks, timestamptz)
  from public;

--! Included 3_deliver/due_deliveries.sql
-- Picks due deliveries of some webhooks, as many as each has room for, and locks them.
-- One whose circuit is open has none; when the pause is over, one, as a probe.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    their ids, or null.

create or replace function webhookpub.due_deliveries (
  p_webhook_ids text[],
  p_limits integer[],
  p_now timestamptz
)
  returns text[]
  language sql
  volatile
  -- From few webhooks to few deliveries, by index, whatever stale statistics say.
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
  select array_agg(f.id)
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
    select u.id
    from (
      -- Those whose worker was lost come first.
      select l.id
      from (
        select d.id
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and d.leased
          and d.next_attempt_at <= p_now
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

comment on function webhookpub.due_deliveries (text[], integer[], timestamptz) is
  'Locks due deliveries of these webhooks, at most p_limits of each, within max_in_flight and its circuit; returns their ids.';
--! EndIncluded 3_deliver/due_deliveries.sql
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
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_gone text[];
  v_failed text[];
begin
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
      webhookpub.next_attempt_at(
        w.retry_schedule,
        t.attempts - t.lost,
        case when a.status_code in (429, 503) then webhookpub.retry_after(a.retry_after, v_now) end,
        v_now
      ) as next_attempt_at
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
--! Included 5_retry/wake_deliveries.sql
-- Finds webhooks with due deliveries and room for a request, and wakes a worker: due
-- retries, expired leases, lost jobs and probes of open circuits are one and the same here.
--
-- Called by  webhookpub.wake.
-- Returns    how many webhooks were woken.

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
  select array_agg(u.webhook_id) into v_webhook_ids
  from (
    select distinct d.webhook_id
    from webhookpub.deliveries as d
    where d.status = 'pending'
      and d.attempts >= 0
      and d.next_attempt_at <= v_now
      and d.next_attempt_at >= p_since
    union
    -- What became due before a circuit's pause was over is older than the window.
    select w.id
    from webhookpub.webhooks as w
    where w.circuit_retry_at <= v_now and w.enabled and exists (
      select
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending' and d.leased in (true, false)
        and d.next_attempt_at <= v_now
    )
  ) as u
  join webhookpub.webhooks as w on w.id = u.webhook_id and w.enabled
  -- One that has as many requests under way as it may is left alone: with the next answer
  -- its worker comes back for more.
  where webhookpub.requests_allowed(w, v_now) > (
    select count(*)
    from webhookpub.deliveries as b
    where b.webhook_id = u.webhook_id and b.status = 'pending' and b.leased
      and b.next_attempt_at > v_now
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
--! Included 0_webhooks/enable_webhook.sql
-- Enables a webhook again: its pending deliveries go on, its failures are forgotten. One
-- that is enabled, but whose circuit is open, is tried at once.
--
-- Called by  applications, psql.
-- Locks      the webhook.
-- Raises     WH020, WH021.

create or replace function webhookpub.enable_webhook (
  p_webhook_id text
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform webhookpub.lock_webhook(p_webhook_id);
  update webhookpub.webhooks as w
  set
    enabled = true,
    disabled_at = null,
    disabled_reason = null,
    failing_since = null,
    failures = 0,
    unanswered = 0,
    circuit_opened_at = null,
    circuit_retry_at = null
  where w.id = p_webhook_id and (not w.enabled or w.circuit_opened_at is not null);
  if found then
    perform webhookpub.add_deliver_jobs(array[p_webhook_id]);
  end if;
end;
$$;

comment on function webhookpub.enable_webhook (text) is
  'Enables a webhook and closes its circuit; what waited goes on, and its failure window starts anew. Raises WH020, WH021.';
--! EndIncluded 0_webhooks/enable_webhook.sql
--! Included 0_webhooks/update_webhook.sql
-- Changes a webhook; what is null stays as it is. Counts for events fanned out from now
-- on, and for attempts begun from now on. A new URL is tried at once, whatever the
-- circuit of the old one was.
--
-- Called by  applications, psql.
-- Locks      the webhook.
-- Raises     WH010, WH011, WH012, WH020, WH021.

create or replace function webhookpub.update_webhook (
  p_webhook_id text,
  p_url text default null,
  p_events text[] default null,
  p_filters jsonb default null,
  p_description text default null,
  p_headers jsonb default null,
  p_max_in_flight integer default null,
  p_retry_schedule interval[] default null,
  p_request_timeout interval default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook webhookpub.webhooks := webhookpub.lock_webhook(p_webhook_id);
  v_moved constant boolean := coalesce(p_url <> v_webhook.url, false);
begin
  v_webhook.url := coalesce(p_url, v_webhook.url);
  v_webhook.events := coalesce(p_events, v_webhook.events);
  v_webhook.filters := coalesce(p_filters, v_webhook.filters);
  v_webhook.description := coalesce(p_description, v_webhook.description);
  v_webhook.headers := coalesce(p_headers, v_webhook.headers);
  v_webhook.max_in_flight := coalesce(p_max_in_flight, v_webhook.max_in_flight);
  v_webhook.retry_schedule := coalesce(p_retry_schedule, v_webhook.retry_schedule);
  v_webhook.request_timeout := coalesce(p_request_timeout, v_webhook.request_timeout);
  perform webhookpub.check_webhook(v_webhook);

  update webhookpub.webhooks as w
  set
    url = v_webhook.url,
    events = v_webhook.events,
    filters = v_webhook.filters,
    description = v_webhook.description,
    headers = webhookpub.lower_names(v_webhook.headers),
    max_in_flight = v_webhook.max_in_flight,
    retry_schedule = v_webhook.retry_schedule,
    request_timeout = v_webhook.request_timeout,
    unanswered = case when v_moved then 0 else w.unanswered end,
    circuit_opened_at = case when not v_moved then w.circuit_opened_at end,
    circuit_retry_at = case when not v_moved then w.circuit_retry_at end
  where w.id = p_webhook_id;
  if v_moved and v_webhook.circuit_opened_at is not null then
    perform webhookpub.add_deliver_jobs(array[p_webhook_id]);
  end if;
end;
$$;

comment on function webhookpub.update_webhook
  (text, text, text[], jsonb, text, jsonb, integer, interval[], interval) is
  'Changes a webhook; null leaves a value as it is. Raises WH010, WH011, WH012, WH020, WH021.';
--! EndIncluded 0_webhooks/update_webhook.sql
