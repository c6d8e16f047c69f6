-- Makes a signing secret in the form of the Standard Webhooks specification.
--
-- Called by  webhookpub.create_webhook, webhookpub.rotate_secret.
--
-- As in random_hex.sql, the body holds pgcrypto's function itself.

select set_config('search_path', (
  select format('pg_catalog, %s', e.extnamespace::regnamespace)
  from pg_catalog.pg_extension as e
  where e.extname = 'pgcrypto'
), true);

create or replace function webhookpub.new_secret ()
  returns text
  language sql
  volatile
return 'whsec_' || encode(gen_random_bytes(32), 'base64');

comment on function webhookpub.new_secret () is
  'whsec_ and the base64 of 32 random bytes.';
