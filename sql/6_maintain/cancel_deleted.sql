-- Cancels deliveries that a fan-out made while their webhook was being deleted.
--
-- Called by  webhookpub.maintain.
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
  select coalesce(sum(webhookpub.cancel_deliveries(w.id)), 0)::bigint
  from webhookpub.webhooks as w
  where w.deleted_at is not null
    and exists (
      select
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending'
    );
$$;

comment on function webhookpub.cancel_deleted () is
  'Cancels pending deliveries of deleted webhooks; returns how many.';
