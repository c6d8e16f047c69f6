-- Signs a request by the scheme of its webhook, during a rotation by both of its secrets: the new
-- one first.
--
-- Called by  webhookpub.signed_requests, per row: no pinned path, and no more immutable than
--            convert_to is, so that it is inlined: faster, and the secret is nowhere a
--            parameter, which might be logged.
-- Returns    what the header says; null without a secret.

create or replace function webhookpub.sign_request (
  p_scheme text,
  p_secret text,
  p_previous_secret text,
  p_event_id text,
  p_timestamp bigint,
  p_body text
)
  returns text
  language sql
  stable
  parallel safe
return case p_scheme
  when 'stripe' then webhookpub.sign_stripe(p_secret, p_timestamp, p_body)
    || case when p_previous_secret is null then ''
      else ',' || webhookpub.sign_stripe(p_previous_secret, p_timestamp, p_body)
    end
  else webhookpub.sign_standard(p_secret, p_event_id, p_timestamp, p_body)
    || case when p_previous_secret is null then ''
      else ' ' || webhookpub.sign_standard(p_previous_secret, p_event_id, p_timestamp, p_body)
    end
end;

comment on function webhookpub.sign_request (text, text, text, text, bigint, text) is
  'The signatures of a request, by the scheme of its webhook.';
