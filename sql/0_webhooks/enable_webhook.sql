-- Enables a webhook again: its pending deliveries go on, its failures are forgotten. One
-- that is enabled, but whose circuit is open or whose receiver asked for a pause, is tried at once.
--
-- Called by  applications, psql.
-- Locks      the webhook.
-- Raises     WH020, WH021.

create or replace function webhookpub.enable_webhook (
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
    enabled = true,
    disabled_at = null,
    disabled_reason = null,
    failing_since = null,
    failures = 0,
    unanswered = 0,
    circuit_opened_at = null,
    circuit_retry_at = null,
    paused_until = null
  where w.id = p_webhook_id
    and (not w.enabled or w.circuit_opened_at is not null or w.paused_until is not null);
  if found then
    perform webhookpub.add_deliver_jobs(array[p_webhook_id]);
  end if;
end;
$$;

comment on function webhookpub.enable_webhook (text) is
  'Enables a webhook and closes its circuit; what waited goes on, and its failure window starts anew. Raises WH020, WH021.';
