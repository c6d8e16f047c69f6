-- Tells a user's webhooks that deliveries ended without success.
--
-- Called by  webhookpub.follow_answers, webhookpub.park_lost, in the transaction that ends them.
--
-- Never about a delivery of a webhook.* event: that would go on for ever. Nor about a test:
-- whoever made it looks at it. Best effort: a catalog without the type must not keep an
-- answer from being recorded.

create or replace function webhookpub.publish_delivery_failed (
  p_delivery_ids text[]
)
  returns void
  language sql
  volatile
as $$
  select count(public.webhook_publish_best_effort_tx(
    'webhook.delivery_failed',
    w.user_id,
    jsonb_build_object(
      'delivery_id', d.id,
      'webhook_id', d.webhook_id,
      'url', w.url,
      'event_id', d.event_id,
      'event_type', d.event_type,
      'attempts', d.attempts,
      'last_status_code', d.last_status_code,
      'last_error', d.last_error
    ),
    event_id => webhookpub.event_id('webhook.delivery_failed', d.id)
  ))
  from webhookpub.delivery_history as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.id = any (p_delivery_ids)
    and d.status = 'failed'
    and d.event_type not like 'webhook.%'
    and starts_with(d.replay_id, 'test_') is not true;
$$;

comment on function webhookpub.publish_delivery_failed (text[]) is
  'Publishes webhook.delivery_failed for each of these deliveries, but never about a webhook.* event or a test.';
