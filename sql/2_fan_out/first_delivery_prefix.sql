-- Makes what the ids of an event's first deliveries begin with; the first half of the webhook's
-- own random digits is the rest. So there is one id for an event and a webhook: the primary key
-- is the backstop against doubles. It begins with the time, so inserts go to the index's right
-- edge and expiry walks in order.
--
-- Called by  webhookpub.fan_out_events, per row: no pinned path, so that it is inlined, which it
--            is only while it claims to be no more constant than what it calls (convert_to).
-- Returns    whd_, 12 hex digits of Unix milliseconds, 12 of the SHA-256 of the event's id. Two
--            deliveries of a webhook whose events are of one millisecond differ by 48 bits.

create or replace function webhookpub.first_delivery_prefix (
  p_event_id text,
  p_event_created_at timestamptz
)
  returns text
  language sql
  stable
  parallel safe
return 'whd_' || encode(
  substr(int8send((date_part('epoch', p_event_created_at) * 1000)::bigint), 3)
    || substr(sha256(convert_to(p_event_id, 'UTF8')), 1, 6),
  'hex'
);

comment on function webhookpub.first_delivery_prefix (text, timestamptz) is
  'What the ids of an event''s first deliveries begin with: its time and a hash of its id.';
