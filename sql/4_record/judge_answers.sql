-- Decides what each answer means for its delivery.
--
-- Called by  webhookpub.record_attempts.
-- Locks      those deliveries in the queue, skipping what somebody else holds: only whoever holds
--            its row there changes a delivery's history.
-- Returns    the answers whose deliveries exist, successes first, each with its verdict.
--
-- An answer counts if it is to the latest attempt of a pending delivery; a late 2xx counts as
-- long as the delivery is pending. Anything else changes nothing, so that state never goes back.

create or replace function webhookpub.judge_answers (
  p_delivery_ids text[],
  p_attempts integer[],
  p_started_at timestamptz[],
  p_durations_ms integer[],
  p_outcomes text[],
  p_status_codes integer[],
  p_errors text[],
  p_retry_afters text[],
  p_held text[],
  p_now timestamptz
)
  returns webhookpub.answer[]
  language sql
  volatile
as $$
  select array_agg(
    row(
      r.place, r.delivery_id, r.attempt, r.started_at, r.duration_ms, r.outcome, r.status_code,
      r.error, h.webhook_id, h.at, q.at,
      case
        when h.status <> 'pending' then 'late'
        when q.at is null then 'held'
        when r.succeeded then 'delivered'
        when not q.leased or r.attempt <> q.attempt then 'late'
        when r.status_code = 410 or q.attempt - q.lost >= h.max_attempts then 'failed'
        else 'pending'
      end,
      q.attempt, q.lost, q.last_attempt_at,
      case when not r.succeeded then webhookpub.next_attempt_at(
        w.retry_schedule,
        q.attempt - q.lost,
        r.pause,
        p_now
      ) end,
      r.pause,
      q.suspicion > 1, q.ordering_key
    )::webhookpub.answer
    order by r.succeeded desc
  )
  from (
    select
      r.place, r.delivery_id, r.attempt, r.started_at, r.duration_ms, r.outcome, r.status_code,
      s.succeeded,
      case when r.status_code in (429, 503) then webhookpub.retry_after(r.retry_after, p_now) end
        as pause,
      case when not s.succeeded then coalesce(r.error, 'HTTP ' || r.status_code) end as error
    from unnest(
      p_delivery_ids, p_attempts, p_started_at, p_durations_ms, p_outcomes,
      p_status_codes, p_errors, p_retry_afters
    ) with ordinality as r (
      delivery_id, attempt, started_at, duration_ms, outcome,
      status_code, error, retry_after, place
    )
    cross join lateral (select r.status_code between 200 and 299 is true) as s (succeeded)
    offset 0
  ) as r
  -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select h.ctid as at, h.webhook_id, h.max_attempts, h.status
    from webhookpub.delivery_history as h
    where h.id = r.delivery_id
    offset 0
  ) as h
  left join lateral (
    select w.retry_schedule
    from webhookpub.webhooks as w
    where w.id = h.webhook_id and not r.succeeded
    offset 0
  ) as w on true
  left join lateral (
    select q.ctid as at, q.attempt, q.lost, q.leased, q.suspicion, q.last_attempt_at,
      case when q.turn_at is null then q.ordering_key end as ordering_key
    from webhookpub.queue as q
    where q.delivery_id = r.delivery_id
      and h.status = 'pending'
      and r.delivery_id <> all (p_held)
    for update skip locked
    offset 0
  ) as q on true;
$$;

comment on function webhookpub.judge_answers
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[],
   timestamptz) is
  'Locks the deliveries of these answers and decides what each means.';
