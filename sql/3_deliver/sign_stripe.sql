-- Signs a request in the manner of Stripe.
--
-- Called by  webhookpub.sign_request, per row: no pinned path, and no more immutable than
--            convert_to is, so that it is inlined: faster, and the secret is nowhere a
--            parameter, which might be logged.
-- Returns    v1= and the HMAC in hex; the key is the whole secret, as text.

create or replace function webhookpub.sign_stripe (
  p_secret text,
  p_timestamp bigint,
  p_body text
)
  returns text
  language sql
  stable
  parallel safe
return 'v1=' || encode(
  webhookpub.hmac_sha256(
    convert_to(p_timestamp || '.' || p_body, 'UTF8'), convert_to(p_secret, 'UTF8')
  ),
  'hex'
);

comment on function webhookpub.sign_stripe (text, bigint, text) is
  'One signature of the scheme stripe: v1=<hex>. p_timestamp is in Unix seconds.';
