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
  v_rule text;
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

  v_rule := case
    when length(p_webhook.description) <= 1000 is not true
      then 'description must be text of up to 1000 characters'
    when p_webhook.signature_scheme in ('standard', 'stripe') is not true
      then format(
        'signature_scheme %s must be standard or stripe',
        coalesce(quote_literal(left(p_webhook.signature_scheme, 40)), 'null')
      )
    when p_webhook.max_in_flight between 1 and 1000 is not true
      then format('max_in_flight %s must be 1 to 1000', coalesce(p_webhook.max_in_flight::text, 'null'))
    when p_webhook.request_timeout <= '0' or p_webhook.request_timeout > '30 seconds'
      then format('request_timeout %s must be over 0 and up to 30 seconds', p_webhook.request_timeout)
    when cardinality(p_webhook.retry_schedule) > 50 or array_ndims(p_webhook.retry_schedule) > 1
      then 'retry_schedule may have at most 50 pauses'
    when exists (
      select
      from unnest(p_webhook.retry_schedule) as r (pause)
      where (r.pause > '0' and r.pause <= '7 days') is not true
    )
      then format(
        'retry_schedule %L: each pause must be over 0 and up to 7 days',
        left(p_webhook.retry_schedule::text, 200)
      )
  end;
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
