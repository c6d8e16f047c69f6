-- Says how many requests a webhook may have under way now: max_in_flight of them; one while its
-- circuit is open and the pause over, to try. After a pause that its receiver asked for one, and
-- one more with each second, so that what has waited does not come back at once.
--
-- Called by  webhookpub.standing, per row: no pinned path, so that it is inlined.

create or replace function webhookpub.requests_allowed (
  p_webhook webhookpub.webhooks,
  p_has_secret boolean,
  p_paced integer,
  p_now timestamptz
)
  returns integer
  language sql
  immutable
  parallel safe
return case
  when webhookpub.webhook_waits_for(p_webhook, p_has_secret, p_paced, p_now) is not null then 0
  when p_webhook.circuit_retry_at is not null then 1
  when p_webhook.paused_until is not null then least(
    p_webhook.max_in_flight, 1 + floor(extract(epoch from p_now - p_webhook.paused_until))
  )::integer
  else p_webhook.max_in_flight
end;

comment on function webhookpub.requests_allowed
  (webhookpub.webhooks, boolean, integer, timestamptz) is
  'How many requests of a webhook may be under way: max_in_flight, or fewer by what it waits for.';
