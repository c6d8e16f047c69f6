-- Locks whose turn it is after these deliveries, which are about to end.
--
-- Called by  webhookpub.put_off_answers, webhookpub.park_lost, which have locked them.
-- Locks      the next one of each that goes by an ordering key, skipping what somebody else holds.
-- Returns    those of which somebody holds the next: they must not end yet, for it would wait for
--            ever.
--
-- A statement of its own, after those that lock: it must see what came behind them meanwhile.

create or replace function webhookpub.hold_turns (
  p_delivery_ids text[]
)
  returns text[]
  language sql
  volatile
as $$
  select array_agg(h.delivery_id)
  from unnest(p_delivery_ids) as p (id)
  -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select q.delivery_id, q.webhook_id, q.ordering_key
    from webhookpub.queue as q
    where q.delivery_id = p.id and q.ordering_key is not null and q.turn_at is null
    offset 0
  ) as h
  cross join lateral (
    select q.delivery_id
    from webhookpub.queue as q
    where q.webhook_id = h.webhook_id and q.ordering_key = h.ordering_key
      and q.turn_at is not null
    order by q.turn_at, q.delivery_id
    limit 1
  ) as n
  left join lateral (
    select q.delivery_id
    from webhookpub.queue as q
    where q.delivery_id = n.delivery_id
    for update skip locked
    offset 0
  ) as l on true
  where l.delivery_id is null;
$$;

comment on function webhookpub.hold_turns (text[]) is
  'Locks what comes next after these deliveries by its ordering key; returns those of which somebody else holds it.';
