-- Keeps what answers say of their webhooks' health, where that changes.
--
-- Called by  webhookpub.record_attempts.
-- Locks      those webhooks, skipping what somebody else holds.
--
-- It is approximate: what answers say (last_delivered_at, failing_since, failures, the circuit) is
-- lost while somebody else holds the webhook, be it another record. Later answers say it again: a
-- circuit may open or close some attempts late. None is disabled because of that
-- (webhookpub.disable_failing). What would send requests that nobody wants is told later instead
-- (webhookpub.hold_answers).
--
-- A receiver that answers 429 or 503 with Retry-After is left alone until then, an hour at a time
-- at most: what waits for it burns no attempt (webhookpub.requests_allowed).
--
-- A webhook's circuit opens when too many of its attempts in a row got no HTTP answer
-- (webhookpub.circuit_pause), and closes with the first one, whatever its status.

create or replace function webhookpub.rate_webhooks (
  p_answers webhookpub.answer[],
  p_now timestamptz
)
  returns void
  language plpgsql
  volatile
as $$
declare
  v_min_failures constant integer := (
    select s.auto_disable_min_failures from webhookpub.settings as s
  );
begin
  update webhookpub.webhooks as w
  set
    last_delivered_at = case when c.succeeded then p_now else w.last_delivered_at end,
    failing_since = case when not c.succeeded then coalesce(w.failing_since, p_now) end,
    failures = case when c.succeeded then 0 else w.failures + c.attempts end,
    unanswered = c.unanswered,
    circuit_opened_at =
      case when c.pause is not null then coalesce(w.circuit_opened_at, p_now) end,
    circuit_retry_at = case
      when c.unanswered = w.unanswered then w.circuit_retry_at
      else p_now + c.pause
    end,
    paused_until = greatest(w.paused_until, p_now + c.asked_pause)
  from (
    select
      w.at, h.succeeded, h.attempts, h.asked_pause, u.unanswered,
      webhookpub.circuit_pause(u.unanswered) as pause
    from (
      select
        a.webhook_id,
        bool_or(a.verdict = 'delivered') as succeeded,
        -- One may have been told twice.
        count(distinct a.delivery_id) as attempts,
        bool_or(a.outcome = 'responded') as answered,
        -- Not least() alone: that takes a null for the hour.
        max(case when a.pause is not null then least(a.pause, interval '1 hour') end)
          as asked_pause
      from unnest(p_answers) as a
      where a.verdict in ('delivered', 'failed', 'pending')
      group by a.webhook_id
    ) as h
    -- One look into an index; "offset 0" keeps the planner from joining.
    cross join lateral (
      select w.ctid as at, w.unanswered, w.circuit_opened_at, w.circuit_retry_at
      from webhookpub.webhooks as w
      where w.id = h.webhook_id
        and (
          case
            when h.succeeded then
              w.failing_since is not null
              or w.last_delivered_at is null
              or w.last_delivered_at < p_now - interval '10 seconds'
            else w.failing_since is null or w.failures < v_min_failures
          end
          or case
            when h.answered then w.unanswered > 0
            else w.circuit_opened_at is null or w.circuit_retry_at <= p_now
          end
          or h.asked_pause is not null
        )
      for no key update skip locked
      offset 0
    ) as w
    cross join lateral (
      -- While a circuit is open, only a probe counts, and what is as late as one.
      select case
        when h.answered then 0
        when w.circuit_opened_at is null then w.unanswered + h.attempts
        when w.circuit_retry_at <= p_now then w.unanswered + 1
        else w.unanswered
      end::integer as unanswered
      offset 0
    ) as u
    offset 0
  ) as c
  where w.ctid = c.at;
end;
$$;

comment on function webhookpub.rate_webhooks (webhookpub.answer[], timestamptz) is
  'Keeps what these answers say of their webhooks'' health and circuits, where it changes.';
