-- Says which new deliveries are born leased, so that no lease need be asked for: what its own
-- process can send at once, of webhooks that are well and have nothing else waiting, a few each, as
-- far as they have room. What has to wait for its turn is not.
--
-- Called by  webhookpub.queue_deliveries.
-- Locks      those webhooks' leases, until the batch commits; what somebody else leases for at
--            this moment is not born leased.
-- Returns    for each delivery until when it is leased, or null; null when none is.

create or replace function webhookpub.leases_at_birth (
  p_webhook_ids text[],
  p_turns timestamptz[],
  p_room integer,
  p_now timestamptz
)
  returns timestamptz[]
  language plpgsql
  volatile
as $$
declare
  -- Of each webhook, so that one that hangs does not hold more.
  v_most constant integer := 4;
  v_free record;
  v_lease record;
  v_leases timestamptz[];
begin
  if p_room <= 0 or not webhookpub.delivery_is_on() then
    return null;
  end if;
  -- A statement of its own: the next one must see what the last holder did.
  select array_agg(f.webhook_id) as webhook_ids, array_agg(f.n) as places into v_free
  from (
    select h.webhook_id, h.n
    from (
      select
        p.webhook_id, p.n,
        row_number() over (partition by p.webhook_id order by p.n) as place,
        dense_rank() over (order by p.webhook_id) as webhook
      from unnest(p_webhook_ids, p_turns) with ordinality as p (webhook_id, turn_at, n)
      where p.turn_at is null
    ) as h
    where h.place <= v_most and h.webhook <= p_room
    offset 0 -- Locked is only what is left.
  ) as f
  where pg_catalog.pg_try_advisory_xact_lock(2003006833, pg_catalog.hashtext(f.webhook_id));

  for v_lease in
    select i.n, r.leased_until
    from (
      select f.webhook_id, array_agg(f.n order by f.n) as places
      from unnest(v_free.webhook_ids, v_free.places) as f (webhook_id, n)
      group by f.webhook_id
    ) as g
    cross join lateral webhookpub.room_at_birth(g.webhook_id, v_most, p_now) as r
    cross join lateral unnest(g.places[1 : r.room]) as i (n)
    limit p_room
  loop
    v_leases := coalesce(
      v_leases, array_fill(null::timestamptz, array[cardinality(p_webhook_ids)])
    );
    v_leases[v_lease.n] := v_lease.leased_until;
  end loop;
  return v_leases;
end;
$$;

comment on function webhookpub.leases_at_birth (text[], timestamptz[], integer, timestamptz) is
  'Until when each of these new deliveries is leased by its fan-out, up to p_room of them; null: not.';
