-- Says how many requests a webhook may have under way now: max_in_flight of them; while
-- its circuit is open none, and one when the pause is over, to try. While its receiver wants to be
-- left alone none, either; then one, and one more with each second, so that what has waited
-- does not come back at once.
--
-- Called by  webhookpub.due_deliveries, webhookpub.wake_deliveries, per row: no pinned
--            path, so that it is inlined.

create or replace function webhookpub.requests_allowed (
  p_webhook webhookpub.webhooks,
  p_now timestamptz
)
  returns integer
  language sql
  immutable
  parallel safe
return case
  when greatest(p_webhook.circuit_retry_at, p_webhook.paused_until) > p_now then 0
  when p_webhook.circuit_retry_at <= p_now then 1
  when p_webhook.paused_until is not null then least(
    p_webhook.max_in_flight, 1 + floor(extract(epoch from p_now - p_webhook.paused_until))
  )::integer
  else p_webhook.max_in_flight
end;

comment on function webhookpub.requests_allowed (webhookpub.webhooks, timestamptz) is
  'How many requests of a webhook may be under way: max_in_flight, or less by its circuit or its pause.';
