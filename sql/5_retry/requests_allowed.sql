-- Says how many requests a webhook may have under way now: max_in_flight of them; while
-- its circuit is open none, and one when the pause is over, to try.
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
  when p_webhook.circuit_retry_at > p_now then 0
  when p_webhook.circuit_retry_at <= p_now then 1
  else p_webhook.max_in_flight
end;

comment on function webhookpub.requests_allowed (webhookpub.webhooks, timestamptz) is
  'How many requests of a webhook may be under way: max_in_flight, or by its circuit 0 or 1.';
