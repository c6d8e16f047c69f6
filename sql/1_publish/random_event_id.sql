-- Makes the id of an event that nothing identifies.
--
-- Called by  public.webhook_publish_tx.

create or replace function webhookpub.random_event_id ()
  returns text
  language sql
  volatile
  parallel safe
return 'evt_' || webhookpub.random_hex();

comment on function webhookpub.random_event_id () is 'evt_ and 32 random hex digits.';
