-- The bytes on the wire, by event id.
--
-- Called by  psql: select envelope from webhookpub.envelopes_by_event where event_id = '…';

create or replace view webhookpub.envelopes_by_event
  with (security_invoker = true)
as
  select n.event_id, n.user_id, n.created_at, n.body as envelope
  from webhookpub.envelopes as n
  union all
  select e.id, e.user_id, e.created_at, e.envelope
  from webhookpub.events as e
  where e.envelope is not null;

comment on view webhookpub.envelopes_by_event is
  'The envelope of each event, pending or not, also of those published on the direct path.';
comment on column webhookpub.envelopes_by_event.envelope is
  'The JSON text that is POSTed and signed.';
