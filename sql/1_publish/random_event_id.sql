-- Makes the id of an event that nothing identifies: time first, so that what lies side by side in
-- time does so in each index.
--
-- Called by  public.webhook_publish_tx.
--
-- In as few calls as it can be, for each is dear there. As in random_hex.sql, the body holds
-- pgcrypto's function itself.

select set_config('search_path', (
  select format('pg_catalog, %s', e.extnamespace::regnamespace)
  from pg_catalog.pg_extension as e
  where e.extname = 'pgcrypto'
), true);

create or replace function webhookpub.random_event_id ()
  returns text
  language sql
  volatile
  parallel safe
return 'evt_' || encode(timestamptz_send(clock_timestamp()) || gen_random_bytes(8), 'hex');

comment on function webhookpub.random_event_id () is
  'evt_ and 32 hex digits: 16 of the time in microseconds since 2000, then 16 random ones.';
