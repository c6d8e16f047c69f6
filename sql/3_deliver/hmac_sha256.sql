-- Computes the HMAC that both signature schemes are made of.
--
-- Called by  webhookpub.sign_standard, webhookpub.sign_stripe.
--
-- As in random_hex.sql, the body holds pgcrypto's function itself.

select set_config('search_path', (
  select format('pg_catalog, %s', e.extnamespace::regnamespace)
  from pg_catalog.pg_extension as e
  where e.extname = 'pgcrypto'
), true);

create or replace function webhookpub.hmac_sha256 (
  p_message bytea,
  p_key bytea
)
  returns bytea
  language sql
  immutable
  parallel safe
return hmac(p_message, p_key, 'sha256');

comment on function webhookpub.hmac_sha256 (bytea, bytea) is
  'HMAC-SHA256 of a message, 32 bytes.';
