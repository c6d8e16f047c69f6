-- Creates a webhook: what a user wants to be sent, and where.
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
  p_request_timeout interval default null,
  p_ordered boolean default false,
  p_max_per_second numeric default null
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
  v_webhook.ordered := p_ordered;
  v_webhook.max_per_second := p_max_per_second;
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
     max_in_flight, request_timeout, retry_schedule, ordered, max_per_second)
  values
    (create_webhook.webhook_id, v_webhook.user_id, v_webhook.url, v_webhook.description, v_webhook.events,
     v_webhook.filters, webhookpub.lower_names(v_webhook.headers),
     v_webhook.signature_scheme, v_webhook.max_in_flight, v_webhook.request_timeout,
     v_webhook.retry_schedule, v_webhook.ordered, nullif(v_webhook.max_per_second, 'infinity'));
  -- Made within the statement, so that it is nobody's parameter, which might be logged.
  insert into webhookpub.secrets as k (webhook_id, secret)
  values (create_webhook.webhook_id, webhookpub.new_secret())
  returning k.secret into create_webhook.signing_secret;
  return next;
end;
$$;

comment on function webhookpub.create_webhook
  (text, text, text[], jsonb, text, jsonb, text, integer, interval[], interval,
   boolean, numeric) is
  'Creates a webhook of a user, with p_ordered in the order of each ordering key, with p_max_per_second at a pace; returns its id and, only here, its signing secret. Raises WH005, WH010, WH011, WH012.';
