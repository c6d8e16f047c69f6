-- Disables webhooks for a reason of the system's own, and tells their users.
--
-- Called by  webhookpub.follow_answers (gone), webhookpub.disable_failing (failing).
-- Locks      the webhooks, which its callers have locked already; it waits for none.
-- Returns    how many were enabled until now; only those are told of.

create or replace function webhookpub.disable_webhooks (
  p_webhook_ids text[],
  p_reason text
)
  returns bigint
  language sql
  volatile
as $$
  with enabled as materialized (
    select w.id
    from webhookpub.webhooks as w
    where w.id = any (p_webhook_ids) and w.enabled
    for no key update skip locked
  ),
  disabled as (
    update webhookpub.webhooks as w
    set enabled = false, disabled_at = clock_timestamp(), disabled_reason = p_reason
    from enabled as e
    where w.id = e.id
    returning w.*
  )
  select count(coalesce(public.webhook_publish_best_effort_tx(
    'webhook.disabled',
    d.user_id,
    jsonb_build_object(
      'webhook_id', d.id,
      'url', d.url,
      'reason', d.disabled_reason,
      'disabled_at', webhookpub.rfc3339(d.disabled_at),
      'failing_since', webhookpub.rfc3339(d.failing_since),
      'last_delivered_at', webhookpub.rfc3339(d.last_delivered_at)
    )
  ), ''))
  from disabled as d;
$$;

comment on function webhookpub.disable_webhooks (text[], text) is
  'Disables those of these webhooks that are enabled and publishes webhook.disabled for each.';
