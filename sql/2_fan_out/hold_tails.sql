-- Locks what new deliveries of ordered webhooks come behind: the last in the queue with their
-- ordering key. Once it is locked nobody can end it, and overlook them; nor later, by a snapshot
-- from before, for it is written anew: that is an error of theirs (40001).
--
-- Called by  webhookpub.keep_order.
-- Locks      those deliveries, skipping what somebody else holds.
-- Returns    the events of which somebody else holds one.

create or replace function webhookpub.hold_tails (
  p_events webhookpub.events[]
)
  returns text[]
  language sql
  volatile
as $$
  -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
  with tail as materialized (
    select k.user_id, k.ordering_key, t.delivery_id, o.delivery_id as locked_id
    from (
      select distinct e.user_id, e.ordering_key
      from unnest(p_events) as e
      where e.ordering_key is not null
    ) as k
    cross join lateral (
      select w.id from webhookpub.webhooks as w where w.user_id = k.user_id and w.ordered offset 0
    ) as w
    left join lateral (
      select q.delivery_id
      from webhookpub.queue as q
      where q.webhook_id = w.id and q.ordering_key = k.ordering_key and q.turn_at is not null
      order by q.turn_at desc, q.delivery_id desc
      limit 1
    ) as l on true
    left join lateral (
      select q.delivery_id
      from webhookpub.queue as q
      where q.webhook_id = w.id and q.ordering_key = k.ordering_key and q.turn_at is null
        and l.delivery_id is null
      offset 0
    ) as h on true
    cross join lateral (select coalesce(l.delivery_id, h.delivery_id) as delivery_id) as t
    left join lateral (
      select q.delivery_id
      from webhookpub.queue as q
      where q.delivery_id = t.delivery_id
      for update skip locked
      offset 0
    ) as o on true
  ),
  written as (
    update webhookpub.queue as q
    set attempt = q.attempt
    where q.delivery_id = any (array(select t.locked_id from tail as t))
  )
  select array_agg(e.id)
  from unnest(p_events) as e
  where exists (
    select from tail as t
    where t.user_id = e.user_id and t.ordering_key = e.ordering_key
      and t.delivery_id is distinct from t.locked_id
  );
$$;

comment on function webhookpub.hold_tails (webhookpub.events[]) is
  'Locks the last delivery in the queue of each ordering key and ordered webhook of these events; returns the events of which that failed.';
