-- Makes due whose turn it is.
--
-- Called by  webhookpub.follow_answers, webhookpub.end_deliveries, which have ended what was before.
-- Returns    their webhooks.
--
-- They are locked already, by webhookpub.hold_turns or webhookpub.next_turns, so they are where they
-- were.

create or replace function webhookpub.pass_turns (
  p_turns tid[],
  p_now timestamptz
)
  returns text[]
  language sql
  volatile
as $$
  with passed as (
    update webhookpub.queue as q
    set turn_at = null, due_at = p_now
    where q.ctid = any (p_turns)
    returning q.webhook_id
  )
  select array_agg(distinct p.webhook_id) from passed as p;
$$;

comment on function webhookpub.pass_turns (tid[], timestamptz) is
  'Makes due the deliveries at these places of the queue, whose turn it is; returns their webhooks.';
