-- Makes due whose turn it is, after deliveries that have ended: the earliest with the same
-- ordering key.
--
-- Called by  webhookpub.follow_answers, webhookpub.end_deliveries.
-- Locks      the deliveries whose turn it is, waiting for whoever holds them; where nothing may
--            wait, webhookpub.hold_turns has locked them.
-- Returns    their webhooks.
--
-- A deleted webhook has no turns: all that is pending of it is cancelled.

create or replace function webhookpub.pass_turns (
  p_webhook_ids text[],
  p_ordering_keys text[],
  p_now timestamptz
)
  returns text[]
  language sql
  volatile
as $$
  with next as materialized (
    select n.at
    from unnest(p_webhook_ids, p_ordering_keys) as p (webhook_id, ordering_key)
    cross join lateral (
      select from webhookpub.webhooks as w where w.id = p.webhook_id and w.deleted_at is null offset 0
    ) as w
    cross join lateral (
      select q.ctid as at
      from webhookpub.queue as q
      where q.webhook_id = p.webhook_id and q.ordering_key = p.ordering_key
        and q.turn_at is not null
      order by q.turn_at, q.delivery_id
      limit 1
      for update
    ) as n
  ),
  passed as (
    update webhookpub.queue as q
    set turn_at = null, due_at = p_now
    where q.ctid = any (array(select n.at from next as n))
    returning q.webhook_id
  )
  select array_agg(distinct p.webhook_id) from passed as p;
$$;

comment on function webhookpub.pass_turns (text[], text[], timestamptz) is
  'Makes due the next delivery of each of these webhooks and ordering keys; returns their webhooks.';
