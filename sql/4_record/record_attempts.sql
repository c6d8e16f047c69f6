-- Records what came back, and decides what becomes of each delivery.
--
-- Called by  the deliverer of a worker, for many requests at once; safe to repeat.
-- Locks      the deliveries; webhooks only when their health changes. What somebody else
--            holds is skipped, never waited for: one application that leaves a transaction
--            open must not keep the answers of all others from being recorded.
-- Returns    the deliveries whose answers have to be told again, for somebody holds them.
--
-- Every answer is kept as an attempt. An answer counts if it is to the latest attempt of
-- a pending delivery; a late 2xx counts as long as the delivery is pending. Anything else
-- changes nothing, so that state never goes back.
--
-- A few answers go by a plan that is kept, for planning takes longer than the rest. It may have
-- been made when tables were small: so it looks up row by row, and never joins a whole table.
-- Many are worth a plan for their number.
--
-- A webhook's health is approximate: what answers say of it (last_delivered_at, failing_since,
-- failures, its circuit) is lost while somebody else holds the webhook, be it another record.
-- Later answers say it again: a circuit may open or close some attempts late. None is disabled
-- because of that (webhookpub.disable_failing), and a 410 is recorded with its webhook or later.
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
  returns text[]
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
  v_held text[] := '{}';
  v_found text[];
  v_gone text[];
  v_failed text[];
  v_tried boolean;
begin
  if cardinality(p_delivery_ids) <= 20 then
    perform set_config('plan_cache_mode', 'force_generic_plan', true);
    perform set_config('enable_hashjoin', 'off', true);
    perform set_config('enable_mergejoin', 'off', true);
  end if;
  -- The webhook of a 410 is to be disabled, or else its answer waits, too.
  if 410 = any (p_status_codes) then
    with gone as materialized (
      select d.id, d.webhook_id
      from unnest(p_delivery_ids, p_status_codes) as r (delivery_id, status_code)
      join webhookpub.deliveries as d on d.id = r.delivery_id
      join webhookpub.webhooks as w on w.id = d.webhook_id
      where r.status_code = 410 and d.status = 'pending' and w.enabled
    ),
    locked as materialized (
      select w.id
      from webhookpub.webhooks as w
      where w.id in (select g.webhook_id from gone as g)
      for no key update of w skip locked
    )
    select coalesce(array_agg(g.id) filter (where l.id is null), '{}') into v_held
    from gone as g
    left join locked as l on l.id = g.webhook_id;
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
    where d.id = any (p_delivery_ids) and d.id <> all (v_held)
    for update skip locked
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
    -- By one look into the index; "offset 0" keeps the planner from joining.
    cross join lateral (
      select w.retry_schedule from webhookpub.webhooks as w where w.id = t.webhook_id offset 0
    ) as w
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
    -- Whichever is read first: only these, by their index.
    where d.id = c.id and d.id = any (p_delivery_ids)
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
    cross join lateral (
      select w.id, w.unanswered, w.circuit_opened_at, w.circuit_retry_at
      from webhookpub.webhooks as w
      where w.id = h.webhook_id
        and (
          case
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
        )
      for no key update skip locked
      offset 0
    ) as w
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
    where w.id = c.id and w.id = any (array(select c.id from changed as c))
  )
  select
    (select array_agg(t.id) from target as t),
    array_agg(distinct c.webhook_id) filter (where c.gone),
    array_agg(c.id) filter (where c.status = 'failed'),
    bool_or(c.tried)
  into v_found, v_gone, v_failed, v_tried
  from decided as c;

  if v_gone is not null then
    perform webhookpub.disable_webhooks(v_gone, 'gone');
  end if;
  if v_failed is not null then
    perform webhookpub.publish_delivery_failed(v_failed);
  end if;
  if v_tried then
    -- A suspect less is under way: the next may be tried.
    perform webhookpub.wake_suspects(v_now);
  end if;
  if cardinality(v_found) = cardinality(p_delivery_ids) then
    return '{}';
  end if;
  return array(
    select d.id
    from webhookpub.deliveries as d
    where d.id = any (p_delivery_ids) and d.id <> all (coalesce(v_found, '{}'))
  );
end;
$$;

comment on function webhookpub.record_attempts
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[]) is
  'Records answers (parallel arrays) and moves each delivery to delivered, failed or its next attempt; returns those that somebody holds, for later.';
