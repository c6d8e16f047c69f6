-- Ends deliveries as their answers have it: out of the queue, and into the history.
--
-- Called by  webhookpub.record_attempts, which has locked them in the queue.
--
-- Of two answers to one delivery a success counts: it comes first, and then there is nothing in
-- the queue for the other.

create or replace function webhookpub.apply_verdicts (
  p_answers webhookpub.answer[],
  p_now timestamptz
)
  returns void
  language plpgsql
  volatile
as $$
begin
  delete from webhookpub.queue as q
  where q.ctid = any (array(
    select a.queue_at from unnest(p_answers) as a where a.verdict in ('delivered', 'failed')
  ));
  update webhookpub.delivery_history as h
  set
    status = a.verdict,
    attempts = a.attempts,
    lost = a.lost,
    last_attempt_at = a.last_attempt_at,
    delivered_at = case when a.verdict = 'delivered' then p_now end,
    last_status_code = a.status_code,
    last_error = a.error
  from (
    select a.* from unnest(p_answers) as a where a.verdict in ('delivered', 'failed') offset 0
  ) as a
  where h.ctid = a.history_at;
end;
$$;

comment on function webhookpub.apply_verdicts (webhookpub.answer[], timestamptz) is
  'Ends the deliveries of these answers that were delivered or have failed.';
