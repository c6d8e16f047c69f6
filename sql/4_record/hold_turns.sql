-- Locks whose turn it is after these deliveries, which are about to end.
--
-- Called by  webhookpub.put_off_answers, webhookpub.park_lost, which have locked them, with the
--            ordering keys whose turn they have.
-- Locks      the next one of each, skipping what somebody else holds.
-- Returns    where those are in the queue; and the deliveries of which somebody holds the next:
--            they must not end yet, for it would wait for ever.
--
-- A statement of its own, after those that lock: it must see what came behind them meanwhile.

create or replace function webhookpub.hold_turns (
  p_delivery_ids text[],
  p_webhook_ids text[],
  p_ordering_keys text[],
  out turns tid[],
  out held_ids text[]
)
  language sql
  volatile
as $$
  select
    array_agg(l.at) filter (where l.at is not null),
    array_agg(p.id) filter (where l.at is null)
  from unnest(p_delivery_ids, p_webhook_ids, p_ordering_keys) as p (id, webhook_id, ordering_key)
  -- Each of these is one look; "offset 0" keeps the planner from joining.
  cross join lateral (
    select q.ctid as at
    from webhookpub.queue as q
    where q.webhook_id = p.webhook_id and q.ordering_key = p.ordering_key
      and q.turn_at is not null
    order by q.turn_at, q.delivery_id
    limit 1
  ) as n
  left join lateral (
    select q.ctid as at
    from webhookpub.queue as q
    where q.ctid = n.at and q.turn_at is not null
    for update skip locked
    offset 0
  ) as l on true;
$$;

comment on function webhookpub.hold_turns (text[], text[], text[]) is
  'Locks what comes next after these deliveries by their ordering keys, and says where it is; and the deliveries of which somebody else holds it.';
