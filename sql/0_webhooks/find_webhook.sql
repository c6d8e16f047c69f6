-- Finds the webhook that somebody names, without locking it.
--
-- Called by  webhookpub.lock_webhook, webhookpub.redeliver_since, webhookpub.test_webhook.
-- Raises     WH020; WH021 when it is deleted, or disabled where it must not be.

create or replace function webhookpub.find_webhook (
  p_webhook_id text,
  p_enabled_only boolean default false
)
  returns webhookpub.webhooks
  language plpgsql
  stable
as $$
declare
  v_webhook webhookpub.webhooks;
begin
  select w.* into v_webhook from webhookpub.webhooks as w where w.id = p_webhook_id;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format('no such webhook: %s', coalesce(quote_literal(left(p_webhook_id, 100)), 'null')),
      hint = 'List them with: select id, user_id, url from webhookpub.webhooks;';
  end if;
  if v_webhook.deleted_at is not null then
    raise exception using
      errcode = 'WH021',
      message = format('webhook %L was deleted at %s', p_webhook_id, v_webhook.deleted_at),
      hint = 'Deleting is for good: create a new webhook.';
  end if;
  if p_enabled_only and not v_webhook.enabled then
    raise exception using
      errcode = 'WH021',
      message = format(
        'webhook %L is disabled since %s: %s',
        p_webhook_id, v_webhook.disabled_at, v_webhook.disabled_reason
      ),
      hint = 'Nothing is sent to it before webhookpub.enable_webhook.';
  end if;
  return v_webhook;
end;
$$;

comment on function webhookpub.find_webhook (text, boolean) is
  'Returns a webhook. Raises WH020 when there is none, WH021 when it is deleted or, if p_enabled_only, disabled.';
