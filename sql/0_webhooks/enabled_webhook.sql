-- Finds a webhook that is to be sent something now.
--
-- Called by  webhookpub.redeliver_since, webhookpub.test_webhook.
-- Locks      nothing when it is enabled: recording must not wait for a long replay.
-- Raises     WH020; WH021 when it is disabled or deleted.

create or replace function webhookpub.enabled_webhook (
  p_webhook_id text
)
  returns webhookpub.webhooks
  language plpgsql
  volatile
as $$
declare
  v_webhook webhookpub.webhooks;
begin
  select w.* into v_webhook
  from webhookpub.webhooks as w
  where w.id = p_webhook_id and w.enabled;
  if not found then
    v_webhook := webhookpub.lock_webhook(p_webhook_id);
  end if;
  if not v_webhook.enabled then
    raise exception using
      errcode = 'WH021',
      message = format('webhook %L is disabled: %s', p_webhook_id, v_webhook.disabled_reason),
      hint = 'Enable it first: select webhookpub.enable_webhook(…);';
  end if;
  return v_webhook;
end;
$$;

comment on function webhookpub.enabled_webhook (text) is
  'Returns a webhook that is enabled. Raises WH020 when there is none, WH021 when it is disabled or deleted.';
