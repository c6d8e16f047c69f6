-- Signs a request by the Standard Webhooks specification.
--
-- Called by  webhookpub.sign_request, per row: no pinned path, and no more immutable than
--            convert_to is, so that it is inlined: faster, and the secret is nowhere a
--            parameter, which might be logged.
-- Returns    v1, and the base64 of the HMAC; the key is the decoded part of the secret.

create or replace function webhookpub.sign_standard (
  p_secret text,
  p_event_id text,
  p_timestamp bigint,
  p_body text
)
  returns text
  language sql
  stable
  parallel safe
return 'v1,' || encode(
  webhookpub.hmac_sha256(
    convert_to(p_event_id || '.' || p_timestamp || '.' || p_body, 'UTF8'),
    decode(substr(p_secret, 7), 'base64')
  ),
  'base64'
);

comment on function webhookpub.sign_standard (text, text, bigint, text) is
  'One signature of the scheme standard: v1,<base64>. p_timestamp is in Unix seconds.';
