-- Cancels pending deliveries.
--
-- Called by  webhookpub.delete_webhook, webhookpub.cancel_deleted, which have locked them.
-- Returns    how many.

create or replace function webhookpub.cancel_deliveries (
  p_delivery_ids text[]
)
  returns bigint
  language sql
  volatile
as $$
  with cancelled as (
    update webhookpub.deliveries as d
    set status = 'cancelled', leased = false, next_attempt_at = null
    where d.id = any (p_delivery_ids)
    returning d.id
  )
  select count(*) from cancelled;
$$;

comment on function webhookpub.cancel_deliveries (text[]) is
  'Cancels these deliveries, which are pending and locked; returns how many.';
