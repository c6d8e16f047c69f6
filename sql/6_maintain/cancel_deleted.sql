-- Cancels deliveries that a fan-out made while their webhook was being deleted.
--
-- Called by  webhookpub.maintain.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.cancel_deleted (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
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
    -- The last chance is before it is removed.
    where w.deleted_at > p_now - interval '1 day'
      or w.deleted_at <= (
        select p_now - s.delivery_retention from webhookpub.settings as s
      )
  )
  select webhookpub.end_deliveries(
    array(select p.delivery_id from pending as p), 'cancelled'
  );
$$;

comment on function webhookpub.cancel_deleted (timestamptz) is
  'Cancels pending deliveries of deleted webhooks; returns how many.';
