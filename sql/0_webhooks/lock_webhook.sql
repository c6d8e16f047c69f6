-- Finds the webhook that somebody wants to change, and locks it.
--
-- Called by  the steering functions.
-- Locks      the webhook, until the transaction ends.
-- Raises     WH020; WH021 when it is deleted.

create or replace function webhookpub.lock_webhook (
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
  where w.id = p_webhook_id
  for no key update;
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
  return v_webhook;
end;
$$;

comment on function webhookpub.lock_webhook (text) is
  'Locks a webhook and returns it. Raises WH020 when there is none, WH021 when it is deleted.';
