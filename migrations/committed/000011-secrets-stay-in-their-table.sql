--! Previous: sha1:7914576f71de74b830a5b1801466abc16b781f53
--! Hash: sha1:c8c4f491dd07d07787ffb64c99e6b7c6f9ff2543
--! Message: secrets stay in their table

-- No samples of them in the planner's statistics, which newer versions of pg_dump take along.
-- Its type is what it was: that throws away those that are there.
-- squawk-ignore changing-column-type
alter table webhookpub.secrets alter column secret type text;
alter table webhookpub.secrets alter column secret set statistics 0;

--! Included 0_webhooks/create_webhook.sql
-- Subscribes a user to events.
--
-- Called by  applications, psql.
-- Locks      the user's number of webhooks, until the transaction ends.
-- Returns    its id and, this once, its signing secret.
-- Raises     WH005, WH010, WH011, WH012.

create or replace function webhookpub.create_webhook (
  p_user_id text,
  p_url text,
  p_events text[],
  p_filters jsonb default '{}',
  p_description text default '',
  p_headers jsonb default '{}',
  p_signature_scheme text default 'standard',
  p_max_in_flight integer default 20,
  p_retry_schedule interval[] default null,
  p_request_timeout interval default null
)
  returns table (
    webhook_id text,
    signing_secret text
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_webhook webhookpub.webhooks;
  v_count bigint;
  v_limit integer;
begin
  v_webhook.user_id := p_user_id;
  v_webhook.url := p_url;
  v_webhook.description := p_description;
  v_webhook.events := p_events;
  v_webhook.filters := p_filters;
  v_webhook.headers := p_headers;
  v_webhook.signature_scheme := p_signature_scheme;
  v_webhook.max_in_flight := p_max_in_flight;
  v_webhook.retry_schedule := coalesce(p_retry_schedule, webhookpub.default_retry_schedule());
  v_webhook.request_timeout := p_request_timeout;
  perform webhookpub.check_webhook(v_webhook);

  perform pg_advisory_xact_lock(2003006835, hashtext(p_user_id));
  select count(w.id), min(s.max_webhooks_per_user) into v_count, v_limit
  from webhookpub.settings as s
  left join webhookpub.webhooks as w on w.user_id = p_user_id and w.deleted_at is null
  having count(w.id) >= min(s.max_webhooks_per_user);
  if found then
    raise exception using
      errcode = 'WH010',
      message = format('user %L has %s webhooks and may have %s', p_user_id, v_count, v_limit),
      hint = 'Delete one, or raise webhookpub.settings.max_webhooks_per_user.';
  end if;

  webhook_id := 'wh_' || webhookpub.random_hex();
  insert into webhookpub.webhooks
    (id, user_id, url, description, events, filters, headers, signature_scheme,
     max_in_flight, request_timeout, retry_schedule)
  values
    (create_webhook.webhook_id, v_webhook.user_id, v_webhook.url, v_webhook.description, v_webhook.events,
     v_webhook.filters, webhookpub.lower_names(v_webhook.headers),
     v_webhook.signature_scheme, v_webhook.max_in_flight, v_webhook.request_timeout,
     v_webhook.retry_schedule);
  -- Made within the statement, so that it is nobody's parameter, which might be logged.
  insert into webhookpub.secrets as k (webhook_id, secret)
  values (create_webhook.webhook_id, webhookpub.new_secret())
  returning k.secret into create_webhook.signing_secret;
  return next;
end;
$$;

comment on function webhookpub.create_webhook
  (text, text, text[], jsonb, text, jsonb, text, integer, interval[], interval) is
  'Subscribes a user to events; returns the webhook''s id and, only here, its signing secret. Raises WH005, WH010, WH011, WH012.';
--! EndIncluded 0_webhooks/create_webhook.sql
--! Included 0_webhooks/rotate_secret.sql
-- Gives a webhook a new signing secret. Until the grace ends, every request carries both
-- signatures, so that the receiver can change over at leisure.
--
-- Called by  applications, psql.
-- Locks      the webhook, so that rotations go one after the other.
-- Returns    the new secret, this once.
-- Raises     WH010, WH020, WH021.

create or replace function webhookpub.rotate_secret (
  p_webhook_id text,
  p_grace interval default '24 hours'
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz;
  v_secret text;
begin
  if p_grace between '0' and '30 days' is not true then
    raise exception using
      errcode = 'WH010',
      message = format('grace %s must be 0 to 30 days', coalesce(p_grace::text, 'null')),
      hint = 'With 0 the old secret ends at once.';
  end if;
  perform webhookpub.lock_webhook(p_webhook_id);
  v_now := clock_timestamp();
  -- At most two live secrets: the one before the last ends here, whatever its grace.
  delete from webhookpub.secrets as s
  where s.webhook_id = p_webhook_id and (s.expires_at is not null or p_grace = '0');
  update webhookpub.secrets as s
  set expires_at = v_now + p_grace
  where s.webhook_id = p_webhook_id;
  -- Made within the statement, so that it is nobody's parameter, which might be logged.
  insert into webhookpub.secrets as k (webhook_id, secret)
  values (p_webhook_id, webhookpub.new_secret())
  returning k.secret into v_secret;
  return v_secret;
end;
$$;

comment on function webhookpub.rotate_secret (text, interval) is
  'Gives a webhook a new secret and returns it; the old one goes on signing beside it for p_grace. Raises WH010, WH020, WH021.';
--! EndIncluded 0_webhooks/rotate_secret.sql
--! Included 3_deliver/sign_standard.sql
-- Signs a request by the Standard Webhooks specification.
--
-- Called by  webhookpub.lease_deliveries, per row: no pinned path, and no more immutable than
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
--! EndIncluded 3_deliver/sign_standard.sql
--! Included 3_deliver/sign_stripe.sql
-- Signs a request in the manner of Stripe.
--
-- Called by  webhookpub.lease_deliveries, per row: no pinned path, and no more immutable than
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
--! EndIncluded 3_deliver/sign_stripe.sql
