-- Finds the webhook that somebody wants to change, and locks it.
--
-- Called by  the functions that change one.
-- Locks      the webhook, until the transaction ends.
-- Raises     WH020; WH021 when it is deleted.

create or replace function webhookpub.lock_webhook (
  p_webhook_id text
)
  returns webhookpub.webhooks
  language plpgsql
  volatile
as $$
begin
  perform from webhookpub.webhooks as w where w.id = p_webhook_id for no key update;
  -- Only now, as the last holder of the lock has left it.
  return webhookpub.find_webhook(p_webhook_id);
end;
$$;

comment on function webhookpub.lock_webhook (text) is
  'Locks a webhook and returns it. Raises WH020 when there is none, WH021 when it is deleted.';
