-- Says why nothing of a webhook may be sent now. What is leased and what people read go by it
-- alike.
--
-- Called by  webhookpub.requests_allowed, webhookpub.standing, webhookpub.delivery_log, per
--            row: no pinned path, so that it is inlined.
-- Returns    null when nothing is in the way.

create or replace function webhookpub.webhook_waits_for (
  p_webhook webhookpub.webhooks,
  p_has_secret boolean,
  p_paced integer,
  p_now timestamptz
)
  returns text
  language sql
  immutable
  parallel safe
return case
  when not p_webhook.enabled then 'enabled webhook'
  -- As after a restore that left them out: nothing goes out unsigned.
  when not p_has_secret then 'secret'
  when p_webhook.circuit_retry_at > p_now then 'closed circuit'
  when p_webhook.paused_until > p_now then 'end of pause'
  when p_paced < 1 then 'pace'
end;

comment on function webhookpub.webhook_waits_for
  (webhookpub.webhooks, boolean, integer, timestamptz) is
  'What a webhook waits for before anything of it is sent: an enabled webhook, a secret, a closed circuit, the end of a pause, or its pace; null: nothing.';
