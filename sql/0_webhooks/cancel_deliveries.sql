-- Cancels what is pending for a webhook.
--
-- Called by  webhookpub.delete_webhook, webhookpub.cancel_deleted.
-- Locks      the deliveries, in the order of their ids, as recording does.
-- Returns    how many.

create or replace function webhookpub.cancel_deliveries (
  p_webhook_id text
)
  returns bigint
  language sql
  volatile
as $$
  with pending as materialized (
    select d.id
    from webhookpub.deliveries as d
    where d.webhook_id = p_webhook_id and d.status = 'pending'
    order by d.id
    for update
  ),
  cancelled as (
    update webhookpub.deliveries as d
    set status = 'cancelled', leased = false, next_attempt_at = null
    from pending as p
    where d.id = p.id
    returning d.id
  )
  select count(*) from cancelled;
$$;

comment on function webhookpub.cancel_deliveries (text) is
  'Cancels the pending deliveries of a webhook; returns how many.';
