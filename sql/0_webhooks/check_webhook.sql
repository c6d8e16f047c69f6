-- Refuses a webhook that could not do what it says. One door for create and update.
--
-- Called by  webhookpub.create_webhook, webhookpub.update_webhook.
-- Raises     WH005, WH010, WH011, WH012.

create or replace function webhookpub.check_webhook (
  p_webhook webhookpub.webhooks
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_rule constant text := webhookpub.webhook_fault(p_webhook);
begin
  if p_webhook.user_id is null or length(p_webhook.user_id) not between 1 and 200 then
    raise exception using
      errcode = 'WH005',
      message = format(
        'user id %s: a webhook needs the id of its user, 1 to 200 characters',
        coalesce(quote_literal(left(p_webhook.user_id, 40)), 'null')
      ),
      hint = 'Pass the tenant whose events the webhook shall get as p_user_id.';
  end if;
  perform webhookpub.check_url(p_webhook.url);
  perform webhookpub.check_events(p_webhook.events);
  perform webhookpub.check_filters(p_webhook.filters);
  perform webhookpub.check_headers(p_webhook.headers);
  if v_rule is not null then
    raise exception using
      errcode = 'WH010',
      message = v_rule,
      hint = 'docs/webhooks.md says what a webhook may be.';
  end if;
end;
$$;

comment on function webhookpub.check_webhook (webhookpub.webhooks) is
  'Raises WH005, WH010, WH011 or WH012 when this is no valid webhook.';
