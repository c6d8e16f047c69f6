-- Says whether a text can be an event id. It travels as an HTTP header and in JSON.
--
-- Called by  public.webhook_publish_tx, webhookpub.refuse_event.

create or replace function webhookpub.is_event_id (
  p_event_id text
)
  returns boolean
  language sql
  immutable
  parallel safe
return p_event_id ~ '^[]!#-[^-~]+$' and length(p_event_id) <= 200;

comment on function webhookpub.is_event_id (text) is
  '1 to 200 visible ASCII characters without double quote and backslash.';
