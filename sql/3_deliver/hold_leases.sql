-- Locks the leases of webhooks: who holds one is alone in leasing for that webhook.
--
-- Called by  webhookpub.lease_deliveries.
-- Locks      them, for the length of the transaction, skipping what somebody else holds.
-- Returns    those that are locked, with their limits; those that somebody else holds; and whether
--            any of them has a pace.

create or replace function webhookpub.hold_leases (
  p_webhook_ids text[],
  p_limits integer[],
  out free text[],
  out limits integer[],
  out held text[],
  out has_pace boolean
)
  language sql
  volatile
as $$
  select
    array_agg(p.id) filter (where p.is_free),
    array_agg(p.room) filter (where p.is_free),
    array_agg(p.id) filter (where not p.is_free),
    bool_or(p.has_pace)
  from (
    select
      p.id, p.room, pg_try_advisory_xact_lock(2003006833, hashtext(p.id)) as is_free,
      (select w.max_per_second is not null from webhookpub.webhooks as w where w.id = p.id) as has_pace
    from unnest(p_webhook_ids, p_limits) as p (id, room)
    offset 0
  ) as p;
$$;

comment on function webhookpub.hold_leases (text[], integer[]) is
  'Locks the leases of these webhooks; says of which somebody else holds it.';
