-- Writes a time as envelopes carry it.
--
-- Called by  public.webhook_publish_tx, webhookpub.disable_webhooks.

create or replace function webhookpub.rfc3339 (
  p_at timestamptz
)
  returns text
  language sql
  stable
  parallel safe
return to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

comment on function webhookpub.rfc3339 (timestamptz) is
  'RFC 3339, UTC, with microseconds: 2026-01-31T12:00:00.000000Z.';
