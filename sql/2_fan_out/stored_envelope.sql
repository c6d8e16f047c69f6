-- Finds the bytes of an event that has been fanned out.
--
-- Called by  webhookpub.fan_out_events, when somebody has set an event back to pending;
--            webhookpub.explain_event.
-- Returns    the envelope, or null.

create or replace function webhookpub.stored_envelope (
  p_event_id text,
  p_created_at timestamptz
)
  returns text
  language plpgsql
  stable
as $$
begin
  return (
    select n.body
    from webhookpub.envelopes as n
    where n.event_id = p_event_id and n.created_at = p_created_at
  );
end;
$$;

comment on function webhookpub.stored_envelope (text, timestamptz) is
  'The envelope of an event that was fanned out; p_created_at finds its partition.';
