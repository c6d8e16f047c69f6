-- Says what is wrong with the plain values of a webhook.
--
-- Called by  webhookpub.check_webhook.
-- Returns    a sentence; null when nothing is wrong.

create or replace function webhookpub.webhook_fault (
  p_webhook webhookpub.webhooks
)
  returns text
  language sql
  stable
as $$
  select case
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
    when p_webhook.ordered is null
      then 'ordered must be true or false, not null'
    when not (
      p_webhook.max_per_second between 0.001 and 10000 or p_webhook.max_per_second = 'infinity'
    )
      then format(
        'max_per_second %s must be 0.001 to 10000, or infinity for none', p_webhook.max_per_second
      )
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
$$;

comment on function webhookpub.webhook_fault (webhookpub.webhooks) is
  'What is wrong with the plain values of a webhook; null: nothing.';
