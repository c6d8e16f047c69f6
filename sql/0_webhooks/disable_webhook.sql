-- Disables a webhook: no new deliveries; those pending wait and burn no attempt.
--
-- Called by  applications, psql.
-- Locks      the webhook.
-- Raises     WH010, WH020, WH021.

create or replace function webhookpub.disable_webhook (
  p_webhook_id text,
  p_reason text default 'manual'
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if length(p_reason) between 1 and 200 is not true then
    raise exception using
      errcode = 'WH010',
      message = format(
        'reason %s must be 1 to 200 characters', coalesce(quote_literal(left(p_reason, 40)), 'null')
      ),
      hint = 'It becomes disabled_reason; leave it out for ''manual''.';
  end if;
  perform webhookpub.lock_webhook(p_webhook_id);
  update webhookpub.webhooks as w
  set enabled = false, disabled_at = clock_timestamp(), disabled_reason = p_reason
  where w.id = p_webhook_id and w.enabled;
end;
$$;

comment on function webhookpub.disable_webhook (text, text) is
  'Disables a webhook; its pending deliveries wait until it is enabled. Raises WH010, WH020, WH021.';
