-- Cancels deliveries that a fan-out made while their webhook was being deleted.
--
-- Called by  webhookpub.maintain.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.cancel_deleted ()
  returns bigint
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  with pending as materialized (
    select q.delivery_id
    from webhookpub.webhooks as w
    cross join lateral (
      select q.delivery_id
      from webhookpub.queue as q
      where q.webhook_id = w.id
      for update skip locked
    ) as q
    where w.deleted_at is not null
  )
  select webhookpub.end_deliveries(
    array(select p.delivery_id from pending as p), 'cancelled'
  );
$$;

comment on function webhookpub.cancel_deleted () is
  'Cancels pending deliveries of deleted webhooks; returns how many.';
