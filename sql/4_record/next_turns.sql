-- Locks whose turn it is after deliveries that have ended: the earliest with the same ordering key.
--
-- Called by  webhookpub.end_deliveries.
-- Locks      those, waiting for whoever holds them; where nothing may wait, webhookpub.hold_turns
--            does so.
-- Returns    where they are in the queue.
--
-- A deleted webhook has no turns: all that is pending of it is cancelled.

create or replace function webhookpub.next_turns (
  p_webhook_ids text[],
  p_ordering_keys text[]
)
  returns tid[]
  language sql
  volatile
as $$
  select array_agg(n.at)
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
  ) as n;
$$;

comment on function webhookpub.next_turns (text[], text[]) is
  'Locks the next delivery of each of these webhooks and ordering keys, and says where it is.';
