-- Records what came back, and decides what becomes of each delivery.
--
-- Called by  the deliverer of a worker, for many requests at once; safe to repeat.
-- Locks      the deliveries in the queue; webhooks only when their health changes. What somebody
--            else holds is skipped, never waited for: one application that leaves a transaction
--            open must not keep the answers of all others from being recorded.
-- Returns    the deliveries whose answers have to be told again, for somebody holds them; and
--            the webhooks for which something is due now that what was before it has ended.
--
-- Every answer is kept as an attempt. A delivery that has ended leaves the queue and is written
-- to the history, once; one with a next attempt changes in the queue alone.
--
-- From few answers to few rows, by one look into an index or by where they are, which no plan
-- can turn into reading a table through, whatever stale statistics say: there is only this one
-- plan for any number, and none of its steps looks at all answers for each answer.

create or replace function webhookpub.record_attempts (
  p_delivery_ids text[],
  p_attempts integer[],
  p_started_at timestamptz[],
  p_durations_ms integer[],
  p_outcomes text[],
  p_status_codes integer[],
  p_errors text[],
  p_response_bodies text[],
  p_retry_afters text[],
  out held_ids text[],
  out ready_webhook_ids text[]
)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_held text[] := '{}';
  v_answers webhookpub.answer[];
  v_turns tid[];
  v_is_plain boolean;
begin
  -- No status is no answer.
  if exists (
    select from unnest(p_status_codes) as s (code) where s.code is null or s.code in (410, 429, 503)
  ) then
    v_held := webhookpub.hold_answers(p_delivery_ids, p_status_codes, p_retry_afters, v_now);
  end if;
  v_answers := webhookpub.judge_answers(
    p_delivery_ids, p_attempts, p_started_at, p_durations_ms, p_outcomes, p_status_codes,
    p_errors, p_retry_afters, v_held, v_now
  );
  -- Most are nothing but delivered: that is all there is to do then.
  v_is_plain := not exists (
    select
    from unnest(v_answers) as a
    where a.verdict <> 'delivered' or a.ordering_key is not null or a.suspected
  );
  if not v_is_plain then
    select p.answers, p.turns into v_answers, v_turns from webhookpub.put_off_answers(v_answers) as p;
  end if;
  perform webhookpub.keep_attempts(v_answers, p_response_bodies);
  perform webhookpub.apply_verdicts(v_answers, v_now);
  perform webhookpub.rate_webhooks(v_answers, v_now);
  held_ids := '{}';
  if not v_is_plain then
    perform webhookpub.put_back_deliveries(v_answers);
    select f.held_ids, f.ready_webhook_ids into held_ids, ready_webhook_ids
    from webhookpub.follow_answers(v_answers, v_turns, v_now) as f;
  end if;
end;
$$;

comment on function webhookpub.record_attempts
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[]) is
  'Records answers (parallel arrays) and moves each delivery to delivered, failed or its next attempt; returns those that somebody holds, for later, and the webhooks for which a turn has passed on.';
