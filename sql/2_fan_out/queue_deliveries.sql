-- Puts the first deliveries of a batch into the queue. What its own process can send at once is
-- born leased, so that no lease need be asked for: of webhooks that are well and have nothing else
-- waiting, a few each, as far as they have room. What has to wait for its turn is never due.
--
-- Called by  webhookpub.fan_out_events, which has made their history.
-- Locks      those webhooks' leases, until the batch commits; what somebody else leases for at
--            this moment is not born leased.
-- Returns    what is leased, and the webhooks that have something waiting.

create or replace function webhookpub.queue_deliveries (
  p_delivery_ids text[],
  p_webhook_ids text[],
  p_ordering_keys text[],
  p_turns timestamptz[],
  p_room integer,
  p_now timestamptz,
  out leased_ids text[],
  out leased_webhook_ids text[],
  out webhook_ids text[]
)
  language plpgsql
  volatile
as $$
declare
  -- Of each webhook, so that one that hangs does not hold more.
  v_most constant integer := 4;
  v_free text[];
begin
  if p_room > 0 and webhookpub.delivery_is_on() then
    -- A statement of its own: the next one must see what the last holder did.
    select array_agg(w.id) into v_free
    from (select distinct p.id from unnest(p_webhook_ids) as p (id) limit p_room) as w
    where pg_catalog.pg_try_advisory_xact_lock(2003006833, pg_catalog.hashtext(w.id));
  end if;
  with delivery as (
    select
      g.webhook_id, g.ids, g.ordering_keys, g.turns, r.leased_until,
      -- least() passes by a null.
      greatest(least(coalesce(r.room, 0), g.heads), 0) as room
    from (
      select
        p.webhook_id, array_agg(p.id) as ids, array_agg(p.ordering_key) as ordering_keys,
        array_agg(p.turn_at) as turns, (count(*) - count(p.turn_at))::integer as heads
      from (
        -- Whose turn it is comes first.
        select p.*
        from unnest(p_delivery_ids, p_webhook_ids, p_ordering_keys, p_turns)
          as p (id, webhook_id, ordering_key, turn_at)
        order by p.webhook_id, p.turn_at nulls first
      ) as p
      group by p.webhook_id
    ) as g
    left join lateral webhookpub.room_at_birth(g.webhook_id, v_most, p_now) as r
      on g.webhook_id = any (v_free)
  ),
  queued as (
    insert into webhookpub.queue as q
      (delivery_id, webhook_id, ordering_key, turn_at, due_at, leased, attempt, last_attempt_at)
    select
      i.id, d.webhook_id, i.ordering_key, i.turn_at,
      case
        when b.is_leased then d.leased_until
        when i.turn_at is not null then 'infinity'
        else p_now
      end,
      b.is_leased, b.is_leased::integer, case when b.is_leased then p_now end
    from (
      select d.*, sum(d.room) over (rows unbounded preceding) as so_far
      from delivery as d
    ) as d
    cross join lateral unnest(d.ids, d.ordering_keys, d.turns)
      with ordinality as i (id, ordering_key, turn_at, n)
    cross join lateral (
      select i.n <= d.room - greatest(d.so_far - p_room, 0) as is_leased
    ) as b
    -- One after the other in the index.
    order by i.id
    returning q.delivery_id, q.webhook_id, q.leased, q.turn_at
  )
  select
    array_agg(q.delivery_id) filter (where q.leased),
    array_agg(q.webhook_id) filter (where q.leased),
    array_agg(distinct q.webhook_id) filter (where not q.leased and q.turn_at is null)
  into leased_ids, leased_webhook_ids, webhook_ids
  from queued as q;
end;
$$;

comment on function webhookpub.queue_deliveries
  (text[], text[], text[], timestamptz[], integer, timestamptz) is
  'Puts new deliveries into the queue, up to p_room of them leased; returns those, and the webhooks that have something waiting.';
