-- Keeps answers as attempts, each once, however often it was told.
--
-- Called by  webhookpub.record_attempts.
--
-- "on conflict" looks into the index before each row, and confirms each by a second record of the
-- WAL. An answer that was told before is rare: only then are they inserted in that way. The numbers
-- of the first try are not used then, so that attempts_total counts a batch twice.
--
-- What was answered may be long, and comes by itself: each step copies all that it is given.

create or replace function webhookpub.keep_attempts (
  p_answers webhookpub.answer[],
  p_response_bodies text[]
)
  returns void
  language plpgsql
  volatile
as $$
begin
  insert into webhookpub.attempts
    (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error, response_body,
     webhook_id)
  select
    a.delivery_id, a.attempt, a.started_at, a.duration_ms, a.outcome, a.status_code, a.error,
    p_response_bodies[a.place], a.webhook_id
  from unnest(p_answers) as a
  where a.verdict <> 'held';
exception when unique_violation then
  insert into webhookpub.attempts
    (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error, response_body,
     webhook_id)
  select
    a.delivery_id, a.attempt, a.started_at, a.duration_ms, a.outcome, a.status_code, a.error,
    p_response_bodies[a.place], a.webhook_id
  from unnest(p_answers) as a
  where a.verdict <> 'held'
  on conflict do nothing;
end;
$$;

comment on function webhookpub.keep_attempts (webhookpub.answer[], text[]) is
  'Keeps these answers as attempts, but those that were kept before and those that are held.';
