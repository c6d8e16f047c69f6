-- Enables a webhook again: its pending deliveries go on, its failures are forgotten.
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
    failures = 0
  where w.id = p_webhook_id and not w.enabled;
  if found then
    perform webhookpub.add_deliver_jobs(array[p_webhook_id]);
  end if;
end;
$$;

comment on function webhookpub.enable_webhook (text) is
  'Enables a webhook; what waited goes on, and its failure window starts anew. Raises WH020, WH021.';
