-- Makes an unguessable id: 16 random bytes as 32 hex digits.
--
-- Called by  everything that makes ids.
--
-- A body in the SQL standard's form is parsed once, here: it holds pgcrypto's function
-- itself, wherever the extension lives, and no search_path can change that.

select set_config('search_path', (
  select format('pg_catalog, %s', e.extnamespace::regnamespace)
  from pg_catalog.pg_extension as e
  where e.extname = 'pgcrypto'
), true);

create or replace function webhookpub.random_hex ()
  returns text
  language sql
  volatile
  parallel safe
return encode(gen_random_bytes(16), 'hex');

comment on function webhookpub.random_hex () is '32 random hex digits.';
