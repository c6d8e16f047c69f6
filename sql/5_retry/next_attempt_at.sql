-- Says when a delivery is due again after a failed attempt.
--
-- Called by  webhookpub.judge_answers; whether there is a next attempt is decided there.
-- Returns    p_now and the schedule's pause, with up to 10 % jitter either way, or what
--            the receiver asked for when that is longer, up to 24 h.

create or replace function webhookpub.next_attempt_at (
  p_schedule interval[],
  p_attempt integer,
  p_retry_after interval default null,
  p_now timestamptz default clock_timestamp()
)
  returns timestamptz
  language sql
  volatile
  parallel safe
return p_now + greatest(
  -- A schedule that was cut short meanwhile goes on with its last pause.
  coalesce(p_schedule[least(p_attempt, cardinality(p_schedule))], interval '1 minute')
    * (0.9 + 0.2 * random()),
  -- Not least() alone: that takes a null for the 24 hours.
  case when p_retry_after is not null then least(p_retry_after, interval '24 hours') end
);

comment on function webhookpub.next_attempt_at (interval[], integer, interval, timestamptz) is
  'When a delivery is due again after its nth failed attempt.';
