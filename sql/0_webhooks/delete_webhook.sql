-- Deletes a webhook for good: pending deliveries are cancelled and its secrets erased;
-- history stays until it expires.
--
-- Called by  applications, psql.
-- Locks      the webhook, then its pending deliveries, those that wait for their turn last, as
--            webhookpub.skip and webhookpub.end_order do: what is being recorded or leased is
--            waited for, and waits for nobody itself.
-- Raises     WH020, WH021.

create or replace function webhookpub.delete_webhook (
  p_webhook_id text
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform webhookpub.lock_webhook(p_webhook_id);
  update webhookpub.webhooks as w
  set
    enabled = false,
    disabled_at = coalesce(w.disabled_at, clock_timestamp()),
    disabled_reason = 'deleted',
    deleted_at = clock_timestamp(),
    -- They may carry credentials of the receiver.
    headers = '{}'
  where w.id = p_webhook_id;
  delete from webhookpub.secrets as s where s.webhook_id = p_webhook_id;
  perform webhookpub.end_deliveries(array(
    select q.delivery_id
    from webhookpub.queue as q
    where q.webhook_id = p_webhook_id
    order by q.turn_at is not null, q.delivery_id
    for update
  ), 'cancelled');
end;
$$;

comment on function webhookpub.delete_webhook (text) is
  'Deletes a webhook for good: cancels what is pending, erases its secrets, keeps its history. Raises WH020, WH021.';
