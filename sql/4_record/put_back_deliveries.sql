-- Moves deliveries whose answers were no success to their next attempt.
--
-- Called by  webhookpub.record_attempts, which has locked them in the queue.

create or replace function webhookpub.put_back_deliveries (
  p_answers webhookpub.answer[]
)
  returns void
  language sql
  volatile
as $$
  update webhookpub.queue as q
  set
    leased = false,
    suspicion = 0,
    due_at = a.due_at,
    last_status_code = a.status_code,
    last_error = a.error
  from (
    select a.* from unnest(p_answers) as a where a.verdict = 'pending' offset 0
  ) as a
  where q.ctid = a.queue_at;
$$;

comment on function webhookpub.put_back_deliveries (webhookpub.answer[]) is
  'Moves the deliveries of these answers that have a next attempt to it.';
