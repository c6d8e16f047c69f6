--! Previous: sha1:e7b1b8f400dffe9437de142893f075b88893a125
--! Hash: sha1:25aca7d557571fb6771bc828ef6f125988047f34
--! Message: behaviour

-- The behaviour: every file of sql/, in the order in which they lean on one another.

set local check_function_bodies = off;

--! Included 7_inspect/version.sql
-- The version of this schema: that of the package that installed it.
--
-- Called by  webhookpub.lease_deliveries (user-agent); workers, when they start.

create or replace function webhookpub.version ()
  returns text
  language sql
  immutable
  parallel safe
return '0.1.0';

comment on function webhookpub.version () is 'The version of webhookpub in this database.';
--! EndIncluded 7_inspect/version.sql
--! Included 0_webhooks/new_secret.sql
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
--! EndIncluded 0_webhooks/new_secret.sql
--! Included 0_webhooks/closed_networks.sql
-- Lists every network that is not public unicast: closed, unless settings.allowed_networks
-- opens it. This is the only such list; workers read it from here.
--
-- Called by  webhookpub.address_is_open; workers, when they start.
-- Returns    IPv4: the special blocks (RFC 6890) and Azure's 168.63.129.16. IPv6: all but
--            2000::/3, and in it what embeds IPv4 (6to4, Teredo) or is not for use.

create or replace function webhookpub.closed_networks ()
  returns cidr[]
  language sql
  immutable
  parallel safe
return array[
  '0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '168.63.129.16/32',
  '169.254.0.0/16', '172.16.0.0/12', '192.0.0.0/24', '192.0.2.0/24', '192.31.196.0/24',
  '192.52.193.0/24', '192.88.99.0/24', '192.168.0.0/16', '192.175.48.0/24',
  '198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24', '224.0.0.0/4', '240.0.0.0/4',
  '::/3', '4000::/2', '8000::/1',
  '2001::/23', '2001:db8::/32', '2002::/16', '2620:4f:8000::/48', '3ffe::/16', '3fff::/20'
]::cidr[];

comment on function webhookpub.closed_networks () is
  'The networks that no webhook may point at unless settings.allowed_networks opens them.';
--! EndIncluded 0_webhooks/closed_networks.sql
--! Included 0_webhooks/address_is_open.sql
-- Says whether a webhook may point at an address.
--
-- Called by  webhookpub.check_url. What is connected to is checked again by the worker.

create or replace function webhookpub.address_is_open (
  p_address inet,
  p_allowed_networks cidr[]
)
  returns boolean
  language sql
  immutable
  parallel safe
return p_address <<= any (p_allowed_networks)
  or not p_address <<= any (webhookpub.closed_networks());

comment on function webhookpub.address_is_open (inet, cidr[]) is
  'Whether an address is public unicast or in one of these networks.';
--! EndIncluded 0_webhooks/address_is_open.sql
--! Included 0_webhooks/check_url.sql
-- Refuses a URL that webhooks may not have. Names are resolved at each attempt, so what a
-- name stands for is checked there; here, everything that the URL itself says.
--
-- Called by  webhookpub.check_webhook.
-- Raises     WH011.

create or replace function webhookpub.check_url (
  p_url text
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_settings webhookpub.settings;
  -- scheme, authority without brackets checked, then host and port of it
  v_parts text[] := regexp_match(p_url, '^(https?)://([^/?#]*)([/?#].*)?$', 'i');
  v_host text := lower(substring(v_parts[2] from '^(\[[^\]]*\]|[^:]*)(?::[0-9]{1,5})?$'));
  v_port integer := substring(v_parts[2] from ':([0-9]{1,5})$')::integer;
  v_address inet;
  v_rule text;
begin
  select s.* into v_settings from webhookpub.settings as s;
  v_rule := case
    when p_url is null or length(p_url) > 2000 then 'it must be 1 to 2000 characters long'
    when p_url !~ '^[\x21-\x7e]+$' or p_url ~ '[\\<>"`{}|^]'
      then 'it must be plain ASCII without blanks; names in punycode, the rest %-encoded'
    when v_parts is null then 'it must start with https://'
    when lower(v_parts[1]) = 'http' and not v_settings.allow_http
      then 'http:// is off (settings.allow_http)'
    when v_parts[2] like '%@%' then 'it must not carry credentials'
    when v_host is null or v_host = '' then 'its host is not valid'
  end;

  if v_rule is null and v_host like '[%' then
    begin
      v_address := trim(both '[]' from v_host)::inet;
    exception when invalid_text_representation then
      v_rule := 'its host is not valid';
    end;
    if family(v_address) <> 6 or v_host like '%/%' then
      v_rule := 'its host is not valid';
    end if;
  elsif v_rule is null and v_host ~ '(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$' then
    -- What ends in a number is an IPv4 address to every client, in some notation.
    if v_host ~ '^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.|$)){4}$'
      and v_host !~ '\.$'
    then
      v_address := v_host::inet;
    else
      v_rule := 'an IPv4 address must be four decimal numbers';
    end if;
  elsif v_rule is null
    and v_host !~ '^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.?$'
  then
    v_rule := 'its host is not valid';
  end if;

  v_rule := coalesce(v_rule, case
    when v_address is not null
      and not webhookpub.address_is_open(v_address, v_settings.allowed_networks)
      then 'the address is not public (settings.allowed_networks)'
    when v_address is null and v_host ~ '(^|\.)(localhost|local|internal|localdomain)\.?$'
      and v_settings.allowed_networks = '{}'
      then 'the name is not public (settings.allowed_networks)'
    when v_port is not null
      and v_port <> 443
      and not (v_port = 80 and v_settings.allow_http)
      and not case
        when v_address is null then v_settings.allowed_networks <> '{}'
        else v_address <<= any (v_settings.allowed_networks)
      end
      then 'the port must be 443, or 80 with settings.allow_http'
    when v_port not between 1 and 65535 then 'there is no such port'
  end);

  if v_rule is not null then
    raise exception using
      errcode = 'WH011',
      message = format(
        'URL %s is not allowed: %s',
        coalesce(quote_literal(left(p_url, 200)), 'null'),
        v_rule
      ),
      hint = 'Webhooks go to public https:// addresses; webhookpub.settings opens others.';
  end if;
end;
$$;

comment on function webhookpub.check_url (text) is 'Raises WH011 when a webhook may not have this URL.';
--! EndIncluded 0_webhooks/check_url.sql
--! Included 0_webhooks/check_events.sql
-- Refuses a webhook's list of events when an entry could never match.
--
-- Called by  webhookpub.check_webhook.
-- Raises     WH010.

create or replace function webhookpub.check_events (
  p_events text[]
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_rule text;
  v_unknown text;
begin
  v_rule := case
    when p_events is null or cardinality(p_events) = 0 then 'it needs at least one entry'
    when array_ndims(p_events) > 1 then 'it must be a flat list'
    when cardinality(p_events) > 50 then 'it may have at most 50 entries'
    else (
      select format(
        'entry %s must be an event type, a prefix such as email.*, or *',
        coalesce(quote_literal(left(e.entry, 40)), 'null')
      )
      from unnest(p_events) as e (entry)
      where e.entry is null
        or length(e.entry) > 200
        or e.entry !~ '^(\*|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\.(\*|[a-z][a-z0-9_]*))$'
      limit 1
    )
  end;
  if v_rule is not null then
    raise exception using
      errcode = 'WH010',
      message = format('events %s: %s', coalesce(quote_literal(left(p_events::text, 200)), 'null'), v_rule),
      hint = 'List the event types with: table webhookpub.event_types;';
  end if;

  select e.entry into v_unknown
  from unnest(p_events) as e (entry)
  where not exists (
    select
    from webhookpub.event_types as t
    where e.entry = any (webhookpub.type_patterns(t.name))
  )
  limit 1;
  if found then
    raise warning 'events entry % matches no event type of the catalog, as it is today',
      quote_literal(v_unknown);
  end if;
end;
$$;

comment on function webhookpub.check_events (text[]) is
  'Raises WH010 when this is no list of event types, prefixes or *.';
--! EndIncluded 0_webhooks/check_events.sql
--! Included 0_webhooks/check_filters.sql
-- Refuses filters that say something else than they seem to: unknown keys, empty or
-- overlong entries, a jsonpath that does not parse.
--
-- Called by  webhookpub.check_webhook.
-- Raises     WH010.

create or replace function webhookpub.check_filters (
  p_filters jsonb
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_rule text;
begin
  if jsonb_typeof(p_filters) is distinct from 'object' then
    v_rule := 'they must be a JSON object';
  else
    select case
      when f.key not in ('agent_ids', 'conversation_ids', 'labels', 'data')
        then format('the key %L is unknown', left(f.key, 40))
      when jsonb_typeof(f.value) = 'null' then null
      when f.key = 'data' and (
        jsonb_typeof(f.value) <> 'string' or length(f.value #>> '{}') not between 1 and 2000
      ) then 'data must be a jsonpath of 1 to 2000 characters'
      when f.key = 'data' then null
      when jsonb_typeof(f.value) <> 'array' then format('%s must be a list', f.key)
      when jsonb_array_length(f.value) > 50
        then format('%s may have at most 50 entries', f.key)
      else (
        select format('entry %s of %s must be 1 to 200 characters of text', left(v.value::text, 60), f.key)
        from jsonb_array_elements(f.value) as v (value)
        where jsonb_typeof(v.value) <> 'string'
          or length(v.value #>> '{}') not between 1 and 200
        limit 1
      )
    end into v_rule
    from jsonb_each(p_filters) as f (key, value)
    order by 1 nulls last
    limit 1;
  end if;

  if v_rule is null then
    begin
      perform (p_filters ->> 'data')::jsonpath;
    exception when others then
      v_rule := format('data is not a jsonpath: %s', sqlerrm);
    end;
  end if;
  if v_rule is not null then
    raise exception using
      errcode = 'WH010',
      message = format('filters %s: %s', coalesce(quote_literal(left(p_filters::text, 200)), 'null'), v_rule),
      hint = 'Keys: agent_ids, conversation_ids, labels (lists of text), data (a jsonpath predicate).';
  end if;
end;
$$;

comment on function webhookpub.check_filters (jsonb) is 'Raises WH010 when these are no valid filters.';
--! EndIncluded 0_webhooks/check_filters.sql
--! Included 0_webhooks/check_headers.sql
-- Refuses custom headers that would change the request itself or are no headers at all.
--
-- Called by  webhookpub.check_webhook.
-- Raises     WH012. The value of a header is never shown: it may be a credential.

create or replace function webhookpub.check_headers (
  p_headers jsonb
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_rule text;
begin
  if jsonb_typeof(p_headers) is distinct from 'object' then
    v_rule := 'headers must be a JSON object of names and texts';
  elsif (
    select count(*) <> count(distinct lower(k.name)) or count(*) > 20
    from jsonb_object_keys(p_headers) as k (name)
  ) then
    v_rule := 'at most 20 headers, and each name once whatever its case';
  else
    select case
      when h.name !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$'
        then format('header %L: that is no header name', left(h.name, 100))
      when lower(h.name) = any ('{
          host, connection, keep-alive, transfer-encoding, te, trailer, upgrade, expect,
          user-agent, accept-encoding
        }')
        or lower(h.name) ~ '^(content|proxy|x-forwarded|webhook|x-webhook)-'
        then format('header %L: that one is webhookpub''s own to set', h.name)
      when jsonb_typeof(h.value) <> 'string' or h.value #>> '{}' !~ '^[\x20-\x7e]*$'
        or length(h.value #>> '{}') > 2000
        then format('header %L: its value must be text of up to 2000 visible ASCII characters', h.name)
    end into v_rule
    from jsonb_each(p_headers) as h (name, value)
    order by 1 nulls last
    limit 1;
  end if;
  if v_rule is not null then
    raise exception using
      errcode = 'WH012',
      message = v_rule,
      hint = 'For example {"authorization": "Bearer …"}.';
  end if;
end;
$$;

comment on function webhookpub.check_headers (jsonb) is 'Raises WH012 when a webhook may not have these headers.';
--! EndIncluded 0_webhooks/check_headers.sql
--! Included 0_webhooks/check_webhook.sql
-- Refuses a webhook that could not do what it says. One door for create and update.
--
-- Called by  webhookpub.create_webhook, webhookpub.update_webhook.
-- Raises     WH005, WH010, WH011, WH012.

create or replace function webhookpub.check_webhook (
  p_webhook webhookpub.webhooks
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_rule text;
begin
  if p_webhook.user_id is null or length(p_webhook.user_id) not between 1 and 200 then
    raise exception using
      errcode = 'WH005',
      message = format(
        'user id %s: a webhook needs the id of its user, 1 to 200 characters',
        coalesce(quote_literal(left(p_webhook.user_id, 40)), 'null')
      ),
      hint = 'Pass the tenant whose events the webhook shall get as p_user_id.';
  end if;
  perform webhookpub.check_url(p_webhook.url);
  perform webhookpub.check_events(p_webhook.events);
  perform webhookpub.check_filters(p_webhook.filters);
  perform webhookpub.check_headers(p_webhook.headers);

  v_rule := case
    when length(p_webhook.description) <= 1000 is not true
      then 'description must be text of up to 1000 characters'
    when p_webhook.signature_scheme in ('standard', 'stripe') is not true
      then format(
        'signature_scheme %s must be standard or stripe',
        coalesce(quote_literal(left(p_webhook.signature_scheme, 40)), 'null')
      )
    when p_webhook.max_in_flight between 1 and 1000 is not true
      then format('max_in_flight %s must be 1 to 1000', coalesce(p_webhook.max_in_flight::text, 'null'))
    when p_webhook.request_timeout <= '0' or p_webhook.request_timeout > '30 seconds'
      then format('request_timeout %s must be over 0 and up to 30 seconds', p_webhook.request_timeout)
    when cardinality(p_webhook.retry_schedule) > 50 or array_ndims(p_webhook.retry_schedule) > 1
      then 'retry_schedule may have at most 50 pauses'
    when exists (
      select
      from unnest(p_webhook.retry_schedule) as r (pause)
      where (r.pause > '0' and r.pause <= '7 days') is not true
    )
      then format(
        'retry_schedule %L: each pause must be over 0 and up to 7 days',
        left(p_webhook.retry_schedule::text, 200)
      )
  end;
  if v_rule is not null then
    raise exception using
      errcode = 'WH010',
      message = v_rule,
      hint = 'See \df+ webhookpub.create_webhook.';
  end if;
end;
$$;

comment on function webhookpub.check_webhook (webhookpub.webhooks) is
  'Raises WH005, WH010, WH011 or WH012 when this is no valid webhook.';
--! EndIncluded 0_webhooks/check_webhook.sql
--! Included 0_webhooks/lower_names.sql
-- Writes header names in lower case, so that one name is one key.
--
-- Called by  webhookpub.create_webhook, webhookpub.update_webhook, after the check.

create or replace function webhookpub.lower_names (
  p_headers jsonb
)
  returns jsonb
  language sql
  immutable
  parallel safe
return (
  select coalesce(jsonb_object_agg(lower(h.name), h.value), '{}')
  from jsonb_each(p_headers) as h (name, value)
);

comment on function webhookpub.lower_names (jsonb) is 'The same headers, their names in lower case.';
--! EndIncluded 0_webhooks/lower_names.sql
--! Included 0_webhooks/lock_webhook.sql
-- Finds the webhook that somebody wants to change, and locks it.
--
-- Called by  the steering functions.
-- Locks      the webhook, until the transaction ends.
-- Raises     WH020; WH021 when it is deleted.

create or replace function webhookpub.lock_webhook (
  p_webhook_id text
)
  returns webhookpub.webhooks
  language plpgsql
  volatile
as $$
declare
  v_webhook webhookpub.webhooks;
begin
  select w.* into v_webhook
  from webhookpub.webhooks as w
  where w.id = p_webhook_id
  for no key update;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format('no such webhook: %s', coalesce(quote_literal(left(p_webhook_id, 100)), 'null')),
      hint = 'List them with: select id, user_id, url from webhookpub.webhooks;';
  end if;
  if v_webhook.deleted_at is not null then
    raise exception using
      errcode = 'WH021',
      message = format('webhook %L was deleted at %s', p_webhook_id, v_webhook.deleted_at),
      hint = 'Deleting is for good: create a new webhook.';
  end if;
  return v_webhook;
end;
$$;

comment on function webhookpub.lock_webhook (text) is
  'Locks a webhook and returns it. Raises WH020 when there is none, WH021 when it is deleted.';
--! EndIncluded 0_webhooks/lock_webhook.sql
--! Included 0_webhooks/cancel_deliveries.sql
-- Cancels what is pending for a webhook.
--
-- Called by  webhookpub.delete_webhook, webhookpub.cancel_deleted.
-- Locks      the deliveries, in the order of their ids, as recording does.
-- Returns    how many.

create or replace function webhookpub.cancel_deliveries (
  p_webhook_id text
)
  returns bigint
  language sql
  volatile
as $$
  with pending as materialized (
    select d.id
    from webhookpub.deliveries as d
    where d.webhook_id = p_webhook_id and d.status = 'pending'
    order by d.id
    for update
  ),
  cancelled as (
    update webhookpub.deliveries as d
    set status = 'cancelled', leased = false, next_attempt_at = null
    from pending as p
    where d.id = p.id
    returning d.id
  )
  select count(*) from cancelled;
$$;

comment on function webhookpub.cancel_deliveries (text) is
  'Cancels the pending deliveries of a webhook; returns how many.';
--! EndIncluded 0_webhooks/cancel_deliveries.sql
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
  select s.max_webhooks_per_user into v_limit
  from webhookpub.settings as s
  where s.max_webhooks_per_user <= (
    select count(*)
    from webhookpub.webhooks as w
    where w.user_id = p_user_id and w.deleted_at is null
  );
  if found then
    raise exception using
      errcode = 'WH010',
      message = format('user %L has %s webhooks already, as many as one may have', p_user_id, v_limit),
      hint = 'Delete one, or raise webhookpub.settings.max_webhooks_per_user.';
  end if;

  webhook_id := 'wh_' || webhookpub.random_hex();
  signing_secret := webhookpub.new_secret();
  insert into webhookpub.webhooks
    (id, user_id, url, description, events, filters, headers, signature_scheme,
     max_in_flight, request_timeout, retry_schedule)
  values
    (create_webhook.webhook_id, v_webhook.user_id, v_webhook.url, v_webhook.description, v_webhook.events,
     v_webhook.filters, webhookpub.lower_names(v_webhook.headers),
     v_webhook.signature_scheme, v_webhook.max_in_flight, v_webhook.request_timeout,
     v_webhook.retry_schedule);
  insert into webhookpub.secrets (webhook_id, secret) values (create_webhook.webhook_id, signing_secret);
  return next;
end;
$$;

comment on function webhookpub.create_webhook
  (text, text, text[], jsonb, text, jsonb, text, integer, interval[], interval) is
  'Subscribes a user to events; returns the webhook''s id and, only here, its signing secret. Raises WH005, WH010, WH011, WH012.';
--! EndIncluded 0_webhooks/create_webhook.sql
--! Included 0_webhooks/update_webhook.sql
-- Changes a webhook; what is null stays as it is. Counts for events fanned out from now
-- on, and for attempts begun from now on.
--
-- Called by  applications, psql.
-- Locks      the webhook.
-- Raises     WH010, WH011, WH012, WH020, WH021.

create or replace function webhookpub.update_webhook (
  p_webhook_id text,
  p_url text default null,
  p_events text[] default null,
  p_filters jsonb default null,
  p_description text default null,
  p_headers jsonb default null,
  p_max_in_flight integer default null,
  p_retry_schedule interval[] default null,
  p_request_timeout interval default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook webhookpub.webhooks := webhookpub.lock_webhook(p_webhook_id);
begin
  v_webhook.url := coalesce(p_url, v_webhook.url);
  v_webhook.events := coalesce(p_events, v_webhook.events);
  v_webhook.filters := coalesce(p_filters, v_webhook.filters);
  v_webhook.description := coalesce(p_description, v_webhook.description);
  v_webhook.headers := coalesce(p_headers, v_webhook.headers);
  v_webhook.max_in_flight := coalesce(p_max_in_flight, v_webhook.max_in_flight);
  v_webhook.retry_schedule := coalesce(p_retry_schedule, v_webhook.retry_schedule);
  v_webhook.request_timeout := coalesce(p_request_timeout, v_webhook.request_timeout);
  perform webhookpub.check_webhook(v_webhook);

  update webhookpub.webhooks as w
  set
    url = v_webhook.url,
    events = v_webhook.events,
    filters = v_webhook.filters,
    description = v_webhook.description,
    headers = webhookpub.lower_names(v_webhook.headers),
    max_in_flight = v_webhook.max_in_flight,
    retry_schedule = v_webhook.retry_schedule,
    request_timeout = v_webhook.request_timeout
  where w.id = p_webhook_id;
end;
$$;

comment on function webhookpub.update_webhook
  (text, text, text[], jsonb, text, jsonb, integer, interval[], interval) is
  'Changes a webhook; null leaves a value as it is. Raises WH010, WH011, WH012, WH020, WH021.';
--! EndIncluded 0_webhooks/update_webhook.sql
--! Included 0_webhooks/enable_webhook.sql
-- Enables a webhook again: its pending deliveries go on, its failures are forgotten.
--
-- Called by  applications, psql.
-- Locks      the webhook.
-- Raises     WH020, WH021.

create or replace function webhookpub.enable_webhook (
  p_webhook_id text
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform webhookpub.lock_webhook(p_webhook_id);
  update webhookpub.webhooks as w
  set
    enabled = true,
    disabled_at = null,
    disabled_reason = null,
    failing_since = null,
    failures = 0
  where w.id = p_webhook_id and not w.enabled;
  if found then
    perform webhookpub.add_deliver_jobs(array[p_webhook_id]);
  end if;
end;
$$;

comment on function webhookpub.enable_webhook (text) is
  'Enables a webhook; what waited goes on, and its failure window starts anew. Raises WH020, WH021.';
--! EndIncluded 0_webhooks/enable_webhook.sql
--! Included 0_webhooks/disable_webhook.sql
-- Disables a webhook: no new deliveries; those pending wait and burn no attempt.
--
-- Called by  applications, psql.
-- Locks      the webhook.
-- Raises     WH010, WH020, WH021.

create or replace function webhookpub.disable_webhook (
  p_webhook_id text,
  p_reason text default 'manual'
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if length(p_reason) between 1 and 200 is not true then
    raise exception using
      errcode = 'WH010',
      message = format(
        'reason %s must be 1 to 200 characters', coalesce(quote_literal(left(p_reason, 40)), 'null')
      ),
      hint = 'It becomes disabled_reason; leave it out for ''manual''.';
  end if;
  perform webhookpub.lock_webhook(p_webhook_id);
  update webhookpub.webhooks as w
  set enabled = false, disabled_at = clock_timestamp(), disabled_reason = p_reason
  where w.id = p_webhook_id and w.enabled;
end;
$$;

comment on function webhookpub.disable_webhook (text, text) is
  'Disables a webhook; its pending deliveries wait until it is enabled. Raises WH010, WH020, WH021.';
--! EndIncluded 0_webhooks/disable_webhook.sql
--! Included 0_webhooks/delete_webhook.sql
-- Deletes a webhook for good: pending deliveries are cancelled and its secrets erased;
-- history stays until it expires.
--
-- Called by  applications, psql.
-- Locks      the webhook, then its pending deliveries.
-- Raises     WH020, WH021.

create or replace function webhookpub.delete_webhook (
  p_webhook_id text
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform webhookpub.lock_webhook(p_webhook_id);
  update webhookpub.webhooks as w
  set
    enabled = false,
    disabled_at = coalesce(w.disabled_at, clock_timestamp()),
    disabled_reason = 'deleted',
    deleted_at = clock_timestamp(),
    -- They may carry credentials of the receiver.
    headers = '{}'
  where w.id = p_webhook_id;
  delete from webhookpub.secrets as s where s.webhook_id = p_webhook_id;
  perform webhookpub.cancel_deliveries(p_webhook_id);
end;
$$;

comment on function webhookpub.delete_webhook (text) is
  'Deletes a webhook for good: cancels what is pending, erases its secrets, keeps its history. Raises WH020, WH021.';
--! EndIncluded 0_webhooks/delete_webhook.sql
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
  v_secret := webhookpub.new_secret();
  -- At most two live secrets: the one before the last ends here, whatever its grace.
  delete from webhookpub.secrets as s
  where s.webhook_id = p_webhook_id and (s.expires_at is not null or p_grace = '0');
  update webhookpub.secrets as s
  set expires_at = v_now + p_grace
  where s.webhook_id = p_webhook_id;
  insert into webhookpub.secrets (webhook_id, secret) values (p_webhook_id, v_secret);
  return v_secret;
end;
$$;

comment on function webhookpub.rotate_secret (text, interval) is
  'Gives a webhook a new secret and returns it; the old one goes on signing beside it for p_grace. Raises WH010, WH020, WH021.';
--! EndIncluded 0_webhooks/rotate_secret.sql
--! Included 1_publish/event_id.sql
-- Derives an event id from what identifies the event: the same parts, the same id.
--
-- Called by  public.webhook_publish_tx, and applications that want to know an id ahead.
-- Raises     WH001 when there are no parts or one is null.

create or replace function webhookpub.event_id (
  variadic parts text[]
)
  returns text
  language plpgsql
  immutable
  parallel safe
as $$
begin
  if pg_catalog.cardinality(parts) is distinct from 0
    and pg_catalog.array_position(parts, null) is null
    and parts is not null
  then
    return 'evt_' || pg_catalog.left(
      pg_catalog.encode(
        pg_catalog.sha256(
          pg_catalog.convert_to(pg_catalog.array_to_string(parts, '|'), 'UTF8')
        ),
        'hex'
      ),
      32
    );
  end if;
  raise exception using
    errcode = 'WH001',
    message = pg_catalog.format(
      'event id parts %s: at least one is needed and none may be null',
      coalesce(pg_catalog.quote_literal(parts::text), 'null')
    ),
    hint = 'Leave out parts that are unknown, or use webhookpub.random_event_id().';
end;
$$;

comment on function webhookpub.event_id (text[]) is
  'evt_ and the first 32 hex digits of SHA-256 over the parts joined by |. Raises WH001.';
--! EndIncluded 1_publish/event_id.sql
--! Included 1_publish/random_event_id.sql
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
--! EndIncluded 1_publish/random_event_id.sql
--! Included 1_publish/is_valid_event_type.sql
-- Says whether an event type is in the catalog.
--
-- Called by  applications; public.webhook_publish_tx asks the table itself.

create or replace function webhookpub.is_valid_event_type (
  name text
)
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from webhookpub.event_types as t
    where t.name = is_valid_event_type.name
  );
$$;

comment on function webhookpub.is_valid_event_type (text) is
  'Whether this event type may be published: whether it is in webhookpub.event_types.';
--! EndIncluded 1_publish/is_valid_event_type.sql
--! Included 1_publish/rfc3339.sql
-- Writes a time as envelopes carry it.
--
-- Called by  public.webhook_publish_tx, webhookpub.disable_webhooks.

create or replace function webhookpub.rfc3339 (
  p_at timestamptz
)
  returns text
  language sql
  stable
  parallel safe
return to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

comment on function webhookpub.rfc3339 (timestamptz) is
  'RFC 3339, UTC, with microseconds: 2026-01-31T12:00:00.000000Z.';
--! EndIncluded 1_publish/rfc3339.sql
--! Included 1_publish/refuse_event.sql
-- Says what is wrong with an event.
--
-- Called by  public.webhook_publish_tx, when something is.
-- Returns    only when publishing is switched off: then nothing is wrong, and nothing is
--            written.
-- Raises     WH001, WH002, WH003, WH005.

create or replace function webhookpub.refuse_event (
  p_event_type text,
  p_user_id text,
  p_data jsonb,
  p_event_id text,
  p_bytes bigint
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_settings webhookpub.settings;
begin
  select s.* into v_settings from webhookpub.settings as s;
  if not v_settings.publish_enabled then
    return;
  end if;
  if p_user_id is null or length(p_user_id) not between 1 and 200 then
    raise exception using
      errcode = 'WH005',
      message = format(
        'user id %s: an event needs the id of its user, 1 to 200 characters',
        coalesce(quote_literal(left(p_user_id, 40)), 'null')
      ),
      hint = 'Pass the tenant whose webhooks shall get the event as user_id.';
  end if;
  perform from webhookpub.event_types as t where t.name = p_event_type;
  if not found then
    raise exception using
      errcode = 'WH002',
      message = format(
        'event type %s is not in the catalog',
        coalesce(quote_literal(left(p_event_type, 100)), 'null')
      ),
      hint = 'List it with: table webhookpub.event_types; add to it with INSERT.';
  end if;
  if jsonb_typeof(p_data) is distinct from 'object' then
    raise exception using
      errcode = 'WH003',
      message = format(
        'data is %s: an event''s data must be a JSON object',
        coalesce(jsonb_typeof(p_data), 'null')
      ),
      hint = 'Wrap it, for example with jsonb_build_object(''value'', …).';
  end if;
  if p_event_id !~ '^[!#-\[\]-~]+$' or length(p_event_id) > 200 then
    raise exception using
      errcode = 'WH001',
      message = format(
        'event id %L: it must be 1 to 200 visible ASCII characters without double quote and backslash',
        left(p_event_id, 210)
      ),
      hint = 'It travels as an HTTP header and in JSON. Leave it out to get one made.';
  end if;
  raise exception using
    errcode = 'WH003',
    message = format(
      'event of %s bytes is over the limit of %s', p_bytes, v_settings.max_payload_bytes
    ),
    hint = 'Send a reference instead, or raise webhookpub.settings.max_payload_bytes.';
end;
$$;

comment on function webhookpub.refuse_event (text, text, jsonb, text, bigint) is
  'Raises what is wrong with an event: WH001, WH002, WH003 or WH005.';
--! EndIncluded 1_publish/refuse_event.sql
--! Included 1_publish/is_known_event.sql
-- Says whether an event id has been published before, on whichever path, and refuses it
-- if that was for another user: that would be a silent loss.
--
-- Called by  public.webhook_publish_tx, for ids that are not random.
-- Raises     WH004.

create or replace function webhookpub.is_known_event (
  p_event_id text,
  p_user_id text
)
  returns boolean
  language plpgsql
  volatile
as $$
declare
  v_user_id text;
begin
  select e.user_id into v_user_id from webhookpub.events as e where e.id = p_event_id;
  if not found then
    -- On the direct path an event leaves deliveries only.
    select w.user_id into v_user_id
    from webhookpub.deliveries as d
    join webhookpub.webhooks as w on w.id = d.webhook_id
    where d.event_id = p_event_id and d.replay_id is null
    limit 1;
  end if;
  if v_user_id <> p_user_id then
    raise exception using
      errcode = 'WH004',
      message = format('event id %L belongs to another user than %L', p_event_id, p_user_id),
      hint = 'Make the id, message_id or dedup_key unique over all users.';
  end if;
  return v_user_id is not null;
end;
$$;

comment on function webhookpub.is_known_event (text, text) is
  'Whether the user has published this id before. Raises WH004 when another user has.';
--! EndIncluded 1_publish/is_known_event.sql
--! Included 1_publish/fan_out_is_asleep.sql
-- Tells a publisher whether somebody has to be woken.
--
-- Called by  public.webhook_publish_tx, webhookpub.wake.
-- Locks      an awake fan-out holds this advisory lock in share mode. Whoever gets it
--            exclusively, if only for this instant, knows that there is none; nobody
--            ever waits. A worker that dies lets go of it with its connection.

create or replace function webhookpub.fan_out_is_asleep ()
  returns boolean
  language sql
  volatile
return case
  when pg_try_advisory_lock(2003006832, 1) then pg_advisory_unlock(2003006832, 1)
  else false
end;

comment on function webhookpub.fan_out_is_asleep () is
  'Whether no fan-out is awake, so that a new event must NOTIFY.';
--! EndIncluded 1_publish/fan_out_is_asleep.sql
--! Included 1_publish/webhook_publish_tx.sql
-- Publishes an event in the caller's transaction: it commits with the caller's data.
--
-- Called by  triggers and applications, before an irreversible side effect.
-- Locks      nothing that another publisher waits for, but for one that publishes the
--            very same id at this moment. Inserts one row, and nothing else.
-- Returns    the event id, also when it was there already; null when publishing is off.
-- Raises     WH001, WH002, WH003, WH004, WH005.
--
-- It runs in other people's transactions all the time, and PL/pgSQL prepares every
-- expression anew in each of them. So there are few: all that usually holds is one, and
-- only if it does not hold is it worked out what is wrong.

create or replace function public.webhook_publish_tx (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_at constant timestamptz := clock_timestamp();
  v_id text := webhook_publish_tx.event_id;
  v_key constant text := coalesce(
    v_id, webhook_publish_tx.message_id, webhook_publish_tx.dedup_key
  );
  v_envelope text;
  v_expires_at timestamptz;
  v_bytes bigint;
  v_max_bytes integer;
  v_allowed boolean;
  v_asleep boolean;
begin
  select
    s.max_payload_bytes,
    v_at + s.event_retention,
    s.publish_enabled and exists (
      select from webhookpub.event_types as t where t.name = webhook_publish_tx.event_type
    )
  into v_max_bytes, v_expires_at, v_allowed
  from webhookpub.settings as s;

  v_id := coalesce(v_id, case
    when v_key is null then webhookpub.random_event_id()
    else webhookpub.event_id(variadic array_remove(array[
      webhook_publish_tx.message_id, webhook_publish_tx.event_type,
      webhook_publish_tx.dedup_key
    ], null))
  end);
  -- Neither the type nor the id can hold what JSON would have to escape.
  v_envelope := '{"event": "' || webhook_publish_tx.event_type || '", "id": "' || v_id
    || '", "created_at": "' || webhookpub.rfc3339(v_at)
    || '", "data": ' || webhook_publish_tx.data::text || '}';
  v_bytes := octet_length(v_envelope)
    + coalesce(octet_length(webhook_publish_tx.agent_id), 0)
    + coalesce(octet_length(webhook_publish_tx.conversation_id), 0)
    + coalesce(octet_length(webhook_publish_tx.message_id), 0)
    + case when cardinality(webhook_publish_tx.labels) > 0
      then pg_column_size(webhook_publish_tx.labels) else 0
    end;
  if (
    v_allowed
    and length(webhook_publish_tx.user_id) between 1 and 200
    and jsonb_typeof(webhook_publish_tx.data) = 'object'
    and v_bytes <= v_max_bytes
    and (
      webhook_publish_tx.event_id is null
      or (v_id ~ '^[!#-\[\]-~]+$' and length(v_id) <= 200)
    )
  ) is not true then
    perform webhookpub.refuse_event(
      webhook_publish_tx.event_type, webhook_publish_tx.user_id, webhook_publish_tx.data,
      webhook_publish_tx.event_id, v_bytes
    );
    return null;
  end if;
  if v_key is not null and webhookpub.is_known_event(v_id, webhook_publish_tx.user_id) then
    return v_id;
  end if;

  insert into webhookpub.events
    (id, user_id, type, agent_id, conversation_id, labels, message_id, envelope, created_at,
     expires_at)
  values (
    v_id, webhook_publish_tx.user_id, webhook_publish_tx.event_type,
    webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
    coalesce(webhook_publish_tx.labels, '{}'), webhook_publish_tx.message_id, v_envelope,
    v_at, v_expires_at
  )
  on conflict (id) do nothing
  returning webhookpub.fan_out_is_asleep() into v_asleep;
  if v_asleep then
    notify webhook_events_new;
  elsif v_asleep is null then
    -- Somebody was faster, with the very same id.
    perform webhookpub.is_known_event(v_id, webhook_publish_tx.user_id);
  end if;
  return v_id;
end;
$$;

comment on function public.webhook_publish_tx
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Publishes an event in your transaction, or raises (WH001 to WH005). Returns its id; an id that is there already is a no-op. In PL/pgSQL: perform webhook_publish_tx(...).';
--! EndIncluded 1_publish/webhook_publish_tx.sql
--! Included 1_publish/webhook_publish_best_effort_tx.sql
-- Publishes an event in the caller's transaction, but never stands in its way.
--
-- Called by  triggers that run after an irreversible side effect.
-- Returns    the event id; null when publishing is off or failed. A failure is kept in
--            webhookpub.publish_failures.

create or replace function public.webhook_publish_best_effort_tx (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_sqlstate text;
  v_message text;
begin
  return public.webhook_publish_tx(
    event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
    event_id
  );
exception when others then
  get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text;
  begin
    insert into webhookpub.publish_failures as f
      (event_type, user_id, data, agent_id, conversation_id, labels, message_id,
       dedup_key, event_id, sqlstate, message)
    values
      (event_type, user_id, data, agent_id, conversation_id, labels, message_id,
       dedup_key, event_id, v_sqlstate, v_message);
  exception when others then
    raise warning 'webhook event % of user % is lost: % (%); not even the failure could be kept: %',
      event_type, user_id, v_message, v_sqlstate, sqlerrm;
  end;
  return null;
end;
$$;

comment on function public.webhook_publish_best_effort_tx
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Like webhook_publish_tx, but never raises: a failure becomes a row of webhookpub.publish_failures, and null is returned.';
--! EndIncluded 1_publish/webhook_publish_best_effort_tx.sql
--! Included 1_publish/webhook_publish.sql
-- Publishes on the direct path: matches and inserts the deliveries at once, and leaves no
-- event row.
--
-- Called by  applications that want no trace of events which nobody listens to.
-- Locks      the id, if it is not random: only who publishes the very same id waits.
-- Returns    the event id; null when publishing is off or failed (a WARNING says why).

create or replace function public.webhook_publish (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_at constant timestamptz := clock_timestamp();
  v_id text;
  v_event webhookpub.events;
begin
  if coalesce(event_id, message_id, dedup_key) is not null then
    -- With no event row, nothing else keeps two of one id apart.
    perform pg_advisory_xact_lock(2003006836, hashtext(
      coalesce(event_id, concat_ws('|', message_id, event_type, dedup_key))
    ));
  end if;
  v_id := public.webhook_publish_tx(
    event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
    event_id
  );
  -- Only what is new: an id that was there already has been published.
  delete from webhookpub.events as e
  where e.id = v_id and e.status = 'pending' and e.created_at >= v_at
  returning e.* into v_event;
  if found then
    perform from webhookpub.fan_out_events(array[v_event]);
    if found then
      insert into webhookpub.envelopes (event_id, created_at, user_id, body)
      values (v_id, v_event.created_at, v_event.user_id, v_event.envelope);
    end if;
  end if;
  return v_id;
exception when others then
  raise warning 'webhook event % of user % is dropped: % (%)',
    event_type, user_id, sqlerrm, sqlstate;
  return null;
end;
$$;

comment on function public.webhook_publish
  (text, text, jsonb, text, text, text[], text, text, text) is
  'Matches and queues the deliveries at once, without an event row. Never raises: an error is a WARNING and the event is dropped.';
--! EndIncluded 1_publish/webhook_publish.sql
--! Included 2_fan_out/type_patterns.sql
-- Lists every entry of webhooks.events that an event type satisfies.
--
-- Called by  webhookpub.fan_out_events, webhookpub.explain_event, webhookpub.check_events.
-- Returns    for email.sent: {*, email.*, email.sent}. One array overlap then decides.

create or replace function webhookpub.type_patterns (
  p_event_type text
)
  returns text[]
  language sql
  immutable
  strict
  parallel safe
as $$
  select array_agg(
    case
      when n.words = 0 then '*'
      when n.words = cardinality(t.words) then p_event_type
      else array_to_string(t.words[1 : n.words], '.') || '.*'
    end
    order by n.words
  )
  from (select string_to_array(p_event_type, '.') as words) as t
  cross join generate_series(0, cardinality(t.words)) as n (words);
$$;

comment on function webhookpub.type_patterns (text) is
  'The entries of webhooks.events that match this type: *, each prefix with .*, and itself.';
--! EndIncluded 2_fan_out/type_patterns.sql
--! Included 2_fan_out/data_holds.sql
-- Decides a webhook's data predicate. Whatever goes wrong in it is no match: the operator
-- keeps silent about most errors, but not about an unknown variable or a time zone, and
-- one webhook's filter must not stop the fan-out for others.
--
-- Called by  webhookpub.unmatched_clause, for webhooks that filter by data.

create or replace function webhookpub.data_holds (
  p_data jsonb,
  p_predicate jsonpath
)
  returns boolean
  language plpgsql
  immutable
  parallel restricted
as $$
begin
  return coalesce(p_data operator(pg_catalog.@@) p_predicate, false);
exception when others then
  return false;
end;
$$;

comment on function webhookpub.data_holds (jsonb, jsonpath) is
  'Whether a jsonpath predicate is true of the data; unknown or an error is false.';
--! EndIncluded 2_fan_out/data_holds.sql
--! Included 2_fan_out/unmatched_clause.sql
-- Decides whether an event is for a webhook, and if not, which clause says so. This is
-- the one implementation of matching: fan-out and explain_event both ask it.
--
-- Called by  webhookpub.fan_out_events, webhookpub.explain_event, per row: no pinned path,
--            so that it is inlined. Names are qualified.
-- Returns    the first clause that does not hold, or null when all do: a match.

create or replace function webhookpub.unmatched_clause (
  p_webhook webhookpub.webhooks,
  p_event webhookpub.events,
  p_type_patterns text[],
  p_data jsonb
)
  returns text
  language sql
  immutable
  parallel safe
as $$
  select case
    when p_webhook.user_id <> p_event.user_id then 'user_id: another user'
    when not p_webhook.enabled then 'enabled: the webhook is disabled or deleted'
    when not p_webhook.events operator(pg_catalog.&&) p_type_patterns
      then 'events: no entry matches the type'
    when p_webhook.filter_agent_ids is not null
      and not coalesce(p_event.agent_id = any (p_webhook.filter_agent_ids), false)
      then case
        when p_event.agent_id is null then 'agent_ids: the event has none'
        else 'agent_ids: the event''s is not in the list'
      end
    when p_webhook.filter_conversation_ids is not null
      and not coalesce(
        p_event.conversation_id = any (p_webhook.filter_conversation_ids), false
      )
      then case
        when p_event.conversation_id is null then 'conversation_ids: the event has none'
        else 'conversation_ids: the event''s is not in the list'
      end
    when p_webhook.filter_labels is not null
      and not p_event.labels operator(pg_catalog.&&) p_webhook.filter_labels
      then case
        when pg_catalog.cardinality(p_event.labels) = 0 then 'labels: the event has none'
        else 'labels: none of the event''s is in the list'
      end
    when p_webhook.filter_data is not null
      and not webhookpub.data_holds(p_data, p_webhook.filter_data)
      then 'data: the predicate is not true'
  end;
$$;

comment on function webhookpub.unmatched_clause
  (webhookpub.webhooks, webhookpub.events, text[], jsonb) is
  'The first clause of a webhook that an event does not satisfy; null when it matches.';
--! EndIncluded 2_fan_out/unmatched_clause.sql
--! Included 2_fan_out/stored_envelope.sql
-- Finds the bytes of an event that has been fanned out.
--
-- Called by  webhookpub.fan_out_events, when somebody has set an event back to pending;
--            webhookpub.explain_event.
-- Returns    the envelope, or null.

create or replace function webhookpub.stored_envelope (
  p_event_id text,
  p_created_at timestamptz
)
  returns text
  language plpgsql
  stable
as $$
begin
  return (
    select n.body
    from webhookpub.envelopes as n
    where n.event_id = p_event_id and n.created_at = p_created_at
  );
end;
$$;

comment on function webhookpub.stored_envelope (text, timestamptz) is
  'The envelope of an event that was fanned out; p_created_at finds its partition.';
--! EndIncluded 2_fan_out/stored_envelope.sql
--! Included 2_fan_out/fan_out_events.sql
-- Matches events and inserts their first deliveries: one statement for the whole batch.
--
-- Called by  webhookpub.mark_fanned_out, public.webhook_publish.
-- Locks      none; a delivery that is there already is left alone.
-- Returns    for each event that matched: the webhooks, and how many deliveries are new.

create or replace function webhookpub.fan_out_events (
  p_events webhookpub.events[]
)
  returns table (
    event_id text,
    matched_webhook_ids text[],
    delivery_count bigint
  )
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  with event_type as materialized (
    select t.name, webhookpub.type_patterns(t.name) as patterns
    from (select distinct e.type as name from unnest(p_events) as e) as t
  ),
  matched as materialized (
    select
      e.id as event_id,
      e.type as event_type,
      e.message_id,
      e.created_at as event_created_at,
      w.id as webhook_id,
      cardinality(w.retry_schedule) + 1 as max_attempts
    from unnest(p_events) as e
    join event_type as t on t.name = e.type
    join webhookpub.webhooks as w on w.user_id = e.user_id
    where webhookpub.unmatched_clause(
      w,
      e,
      t.patterns,
      -- Parsed only for webhooks that filter by it.
      case when w.filter_data is not null
        then coalesce(e.envelope, webhookpub.stored_envelope(e.id, e.created_at))::jsonb -> 'data'
      end
    ) is null
  ),
  created as (
    insert into webhookpub.deliveries as d
      (id, webhook_id, event_id, event_type, event_created_at, message_id, max_attempts,
       next_attempt_at, created_at, expires_at)
    select
      'whd_' || webhookpub.random_hex(), m.webhook_id, m.event_id, m.event_type,
      m.event_created_at, m.message_id, m.max_attempts,
      c.at, c.at, c.at + s.delivery_retention
    from matched as m
    cross join webhookpub.settings as s
    cross join (select clock_timestamp() as at) as c
    on conflict (event_id, webhook_id) where replay_id is null do nothing
    returning d.event_id, d.webhook_id
  )
  -- Counted side by side: a join of the two would be guessed to be tiny.
  select
    b.event_id,
    array_agg(b.webhook_id order by b.webhook_id) filter (where not b.is_new),
    count(*) filter (where b.is_new)
  from (
    select m.event_id, m.webhook_id, false as is_new from matched as m
    union all
    select c.event_id, c.webhook_id, true from created as c
  ) as b
  group by b.event_id;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[]) is
  'Matches events against their users'' webhooks and inserts the first deliveries.';
--! EndIncluded 2_fan_out/fan_out_events.sql
--! Included 2_fan_out/add_deliver_jobs.sql
-- Makes sure that each of these webhooks has a job that will look for its due deliveries.
--
-- Called by  webhookpub.fan_out, webhookpub.wake_deliveries, and steering functions.
-- Locks      the webhooks' job rows, in the order of their ids.

create or replace function webhookpub.add_deliver_jobs (
  p_webhook_ids text[]
)
  returns void
  language sql
  volatile
as $$
  with wanted as materialized (
    select distinct w.id from unnest(p_webhook_ids) as w (id)
  ),
  added as materialized (
    select j.key
    from graphile_worker.add_jobs(array(
      select row(
        'webhook_deliver', json_build_object('webhook_id', w.id), null, null, null, w.id,
        null, null
      )::graphile_worker.job_spec
      from wanted as w
      order by w.id
    )) as j
    where exists (select from wanted)
  ),
  -- add_jobs leaves out a key whose job was locked in that very instant.
  missed as (
    select w.id from wanted as w where w.id not in (select a.key from added as a)
  )
  select count(*)
  from missed as m
  cross join lateral graphile_worker.add_job(
    'webhook_deliver', json_build_object('webhook_id', m.id)
  ) as j;
$$;

comment on function webhookpub.add_deliver_jobs (text[]) is
  'Adds a webhook_deliver job for each of these webhooks, unless one waits already.';
--! EndIncluded 2_fan_out/add_deliver_jobs.sql
--! Included 2_fan_out/mark_fanned_out.sql
-- Fans a batch out, marks its events and moves their bytes to where they are kept: all or
-- nothing.
--
-- Called by  webhookpub.fan_out.
-- Returns    how many deliveries are new, and the webhooks that got work.

create or replace function webhookpub.mark_fanned_out (
  p_events webhookpub.events[],
  out delivery_count bigint,
  out webhook_ids text[]
)
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  with matched as materialized (
    select f.* from webhookpub.fan_out_events(p_events) as f
  ),
  moved as (
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select p.id, p.created_at, p.user_id, p.envelope
    from unnest(p_events) as p
    where p.envelope is not null
  ),
  marked as (
    update webhookpub.events as e
    set
      status = (
        case when m.event_id is null then 'no_match' else 'processed' end
      )::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.matched_webhook_ids, '{}'),
      envelope = null,
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from unnest(p_events) as p
    left join matched as m on m.event_id = p.id
    where e.id = p.id
  )
  select
    coalesce(sum(m.delivery_count), 0)::bigint,
    array(
      select distinct w.id
      from matched as g
      cross join unnest(g.matched_webhook_ids) as w (id)
      where g.delivery_count > 0
    )
  from matched as m;
$$;

comment on function webhookpub.mark_fanned_out (webhookpub.events[]) is
  'Inserts the deliveries of these events and marks them processed or no_match.';
--! EndIncluded 2_fan_out/mark_fanned_out.sql
--! Included 2_fan_out/fan_out.sql
-- One tick: turns pending events into deliveries.
--
-- Called by  the task webhook_fan_out; psql.
-- Locks      the events it takes, skipping those that another fan-out has.
-- Returns    how many events were fanned out, and how many deliveries that made.
--
-- A batch is all or nothing. If it fails, its events go one by one; a culprit keeps its
-- error and waits, longer each time, while the others go on. It is never given up.

create or replace function webhookpub.fan_out (
  p_limit integer default 500
)
  returns table (
    event_count integer,
    delivery_count integer
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- The pending ones, in order, by their index, whatever stale statistics say.
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_events webhookpub.events[];
  v_event webhookpub.events;
  v_done record;
begin
  event_count := 0;
  delivery_count := 0;

  select array_agg(p order by p.expires_at) into v_events
  from (
    select e.*
    from webhookpub.events as e
    where e.status = 'pending'
      and (e.retry_at is null or e.retry_at <= clock_timestamp())
    order by e.expires_at
    limit p_limit
    for update skip locked
  ) as p;
  if v_events is null then
    return next;
    return;
  end if;

  begin
    v_done := webhookpub.mark_fanned_out(v_events);
    event_count := cardinality(v_events);
    delivery_count := v_done.delivery_count;
    perform webhookpub.add_deliver_jobs(v_done.webhook_ids);
  exception when others then
    event_count := 0;
    delivery_count := 0;
    foreach v_event in array v_events loop
      begin
        v_done := webhookpub.mark_fanned_out(array[v_event]);
        perform webhookpub.add_deliver_jobs(v_done.webhook_ids);
        event_count := event_count + 1;
        delivery_count := delivery_count + v_done.delivery_count;
      exception when others then
        update webhookpub.events as e
        set
          attempts = e.attempts + 1,
          last_error = format('%s (%s)', sqlerrm, sqlstate),
          retry_at = clock_timestamp()
            + least(interval '1 second' * 2 ^ least(e.attempts, 20), interval '1 hour')
        where e.id = v_event.id;
      end;
    end loop;
  end;
  return next;
end;
$$;

comment on function webhookpub.fan_out (integer) is
  'Turns up to p_limit pending events into deliveries; returns how many of each. Safe to run any number of times at once.';
--! EndIncluded 2_fan_out/fan_out.sql
--! Included 2_fan_out/enter_fan_out.sql
-- Lets a worker become an awake fan-out, if there is room for one more.
--
-- Called by  the task webhook_fan_out, on a connection of its own.
-- Locks      one of two seats, so that a stopped process can hold up only one of them,
--            and the shared lock by which publishers know that somebody is awake. Both
--            are held by the session until webhookpub.leave_fan_out.
-- Returns    false when both seats are taken: then there is nothing to do.

create or replace function webhookpub.enter_fan_out ()
  returns boolean
  language plpgsql
  volatile
as $$
begin
  if pg_catalog.pg_try_advisory_lock(2003006832, 2)
    or pg_catalog.pg_try_advisory_lock(2003006832, 3)
  then
    perform pg_catalog.pg_advisory_lock_shared(2003006832, 1);
    return true;
  end if;
  return false;
end;
$$;

comment on function webhookpub.enter_fan_out () is
  'Takes a seat as an awake fan-out, for this session; false when all seats are taken.';
--! EndIncluded 2_fan_out/enter_fan_out.sql
--! Included 2_fan_out/leave_fan_out.sql
-- Gives the seat of an awake fan-out back.
--
-- Called by  the task webhook_fan_out, on the connection that entered.

create or replace function webhookpub.leave_fan_out ()
  returns void
  language sql
  volatile
as $$
  select pg_catalog.pg_advisory_unlock_all();
$$;

comment on function webhookpub.leave_fan_out () is
  'Gives back what webhookpub.enter_fan_out took.';
--! EndIncluded 2_fan_out/leave_fan_out.sql
--! Included 3_deliver/hmac_sha256.sql
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
--! EndIncluded 3_deliver/hmac_sha256.sql
--! Included 3_deliver/sign_standard.sql
-- Signs a request by the Standard Webhooks specification.
--
-- Called by  webhookpub.lease_deliveries, per row: no pinned path, so that it is inlined.
-- Returns    v1, and the base64 of the HMAC; the key is the decoded part of the secret.

create or replace function webhookpub.sign_standard (
  p_secret text,
  p_event_id text,
  p_timestamp bigint,
  p_body text
)
  returns text
  language sql
  immutable
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
-- Called by  webhookpub.lease_deliveries, per row: no pinned path, so that it is inlined.
-- Returns    v1= and the HMAC in hex; the key is the whole secret, as text.

create or replace function webhookpub.sign_stripe (
  p_secret text,
  p_timestamp bigint,
  p_body text
)
  returns text
  language sql
  immutable
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
--! Included 3_deliver/due_deliveries.sql
-- Picks due deliveries of some webhooks, as many as each has room for, and locks them.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    their ids, or null.

create or replace function webhookpub.due_deliveries (
  p_webhook_ids text[],
  p_limits integer[],
  p_now timestamptz
)
  returns text[]
  language sql
  volatile
  -- From few webhooks to few deliveries, by index, whatever stale statistics say.
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
  select array_agg(f.id)
  from unnest(p_webhook_ids, p_limits) as p (id, room)
  cross join lateral (
    select w.id, least(p.room, w.max_in_flight - (
      select count(*)
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending' and d.leased
        and d.next_attempt_at > p_now
    )) as room
    from webhookpub.webhooks as w
    where w.id = p.id and w.enabled
    offset 0
  ) as w
  cross join lateral (
    select u.id
    from (
      -- Those whose worker was lost come first.
      select l.id
      from (
        select d.id
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and d.leased
          and d.next_attempt_at <= p_now
        order by d.next_attempt_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as l
      union all
      select r.id
      from (
        select d.id
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and not d.leased
          and d.next_attempt_at <= p_now
        order by d.next_attempt_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as r
    ) as u
    limit greatest(w.room, 0)
  ) as f;
$$;

comment on function webhookpub.due_deliveries (text[], integer[], timestamptz) is
  'Locks due deliveries of these webhooks, at most p_limits of each, within max_in_flight; returns their ids.';
--! EndIncluded 3_deliver/due_deliveries.sql
--! Included 3_deliver/lease_deliveries.sql
-- Leases due deliveries to a worker and says all that it needs to POST them.
--
-- Called by  the task webhook_deliver, for many webhooks at once.
-- Locks      each webhook's lease, for the length of this call, in the order of their
--            ids; then the deliveries, skipping those that somebody else holds.
-- Returns    one row for each leased delivery. timeout_ms is the deadline of the whole
--            exchange; the lease lasts 15 s longer, so that its answer can be recorded.
--
-- The lease is next_attempt_at itself: an answer, a retry and a worker that died are all
-- the same thing, a pending row that is due or not.

create or replace function webhookpub.lease_deliveries (
  p_webhook_ids text[],
  p_limits integer[] default null
)
  returns table (
    webhook_id text,
    delivery_id text,
    attempt integer,
    started_at timestamptz,
    timeout_ms integer,
    url text,
    headers jsonb,
    body text,
    allow_http boolean,
    allowed_networks text[]
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_seconds bigint;
  v_settings webhookpub.settings;
  v_due text[];
begin
  -- A statement of its own: the next one must see what the last holder did.
  perform pg_advisory_xact_lock(2003006833, hashtext(o.id))
  from (select distinct p.id from unnest(p_webhook_ids) as p (id) order by p.id) as o;
  v_now := clock_timestamp();
  v_seconds := floor(extract(epoch from v_now));
  v_due := webhookpub.due_deliveries(p_webhook_ids, p_limits, v_now);
  if v_due is null then
    return;
  end if;
  select s.* into v_settings from webhookpub.settings as s;

  return query
  with leased as (
    update webhookpub.deliveries as d
    set
      leased = true,
      lost = d.lost + d.leased::integer,
      attempts = d.attempts + 1,
      last_attempt_at = v_now,
      next_attempt_at = v_now + interval '15 seconds' + coalesce(
        (select w.request_timeout from webhookpub.webhooks as w where w.id = d.webhook_id),
        v_settings.request_timeout
      )
    where d.id = any (v_due)
    returning d.id, d.webhook_id, d.event_id, d.event_type, d.event_created_at, d.attempts
  )
  select
    l.webhook_id,
    l.id,
    l.attempts,
    v_now,
    (extract(epoch from coalesce(w.request_timeout, v_settings.request_timeout)) * 1000)::integer,
    w.url,
    w.headers || jsonb_build_object(
      'content-type', 'application/json',
      'user-agent', 'webhookpub/' || webhookpub.version(),
      'accept-encoding', 'identity',
      'webhook-event-type', l.event_type,
      'webhook-delivery-id', l.id,
      'webhook-attempt', l.attempts::text
    ) || case w.signature_scheme
      when 'stripe' then jsonb_build_object(
        'x-webhook-signature', 't=' || v_seconds || ',' || g.stripe
      )
      else jsonb_build_object(
        'webhook-id', l.event_id,
        'webhook-timestamp', v_seconds::text,
        'webhook-signature', g.standard
      )
    end,
    n.body,
    v_settings.allow_http,
    v_settings.allowed_networks::text[]
  from leased as l
  -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select w.* from webhookpub.webhooks as w where w.id = l.webhook_id offset 0
  ) as w
  cross join lateral (
    select n.body
    from webhookpub.envelopes as n
    where n.event_id = l.event_id and n.created_at = l.event_created_at
    offset 0
  ) as n
  cross join lateral (
    select
      string_agg(
        case when w.signature_scheme = 'standard'
          then webhookpub.sign_standard(k.secret, l.event_id, v_seconds, n.body)
        end,
        ' ' order by k.id desc
      ) as standard,
      string_agg(
        case when w.signature_scheme = 'stripe'
          then webhookpub.sign_stripe(k.secret, v_seconds, n.body)
        end,
        ',' order by k.id desc
      ) as stripe
    from webhookpub.secrets as k
    where k.webhook_id = w.id and (k.expires_at is null or k.expires_at > v_now)
  ) as g;
end;
$$;

comment on function webhookpub.lease_deliveries (text[], integer[]) is
  'Leases due deliveries of these webhooks, at most p_limits of each, within max_in_flight; returns the requests, signed.';
--! EndIncluded 3_deliver/lease_deliveries.sql
--! Included 4_record/retry_after.sql
-- Reads a Retry-After header: seconds or an HTTP date.
--
-- Called by  webhookpub.record_attempts.
-- Returns    how long to wait, at most 24 h; null when it says nothing that makes sense.

create or replace function webhookpub.retry_after (
  p_header text,
  p_now timestamptz
)
  returns interval
  language plpgsql
  stable
as $$
begin
  if p_header ~ '^\s*[0-9]+\s*$' then
    return pg_catalog.make_interval(secs => least(p_header::numeric, 86400)::integer);
  end if;
  if p_header ~ '^\s*[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\s*$' then
    return nullif(
      greatest(
        least(
          pg_catalog.to_timestamp(
            pg_catalog.substr(pg_catalog.btrim(p_header), 6, 20) || ' +00',
            'DD Mon YYYY HH24:MI:SS TZH'
          ) - p_now,
          interval '24 hours'
        ),
        interval '0'
      ),
      interval '0'
    );
  end if;
  return null;
exception when datetime_field_overflow or invalid_datetime_format then
  return null;
end;
$$;

comment on function webhookpub.retry_after (text, timestamptz) is
  'The pause that a Retry-After header asks for, up to 24 h; null when there is none.';
--! EndIncluded 4_record/retry_after.sql
--! Included 4_record/record_attempts.sql
-- Records what came back, and decides what becomes of each delivery.
--
-- Called by  the task webhook_deliver, for many requests at once; safe to repeat.
-- Locks      the deliveries, in the order of their ids; webhooks only when their health
--            changes.
-- Returns    nothing: whatever is to happen next stands in the tables.
--
-- Every answer is kept as an attempt. An answer counts if it is to the latest attempt of
-- a pending delivery; a late 2xx counts as long as the delivery is pending. Anything else
-- changes nothing, so that state never goes back.

create or replace function webhookpub.record_attempts (
  p_delivery_ids text[],
  p_attempts integer[],
  p_started_at timestamptz[],
  p_durations_ms integer[],
  p_outcomes text[],
  p_status_codes integer[],
  p_errors text[],
  p_response_bodies text[],
  p_retry_afters text[]
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_gone text[];
  v_failed text[];
begin
  with answer as materialized (
    select
      r.delivery_id, r.attempt, r.started_at, r.duration_ms, r.outcome, r.status_code,
      r.response_body, r.retry_after,
      case when (r.status_code between 200 and 299) is not true
        then coalesce(r.error, 'HTTP ' || r.status_code)
      end as error,
      coalesce(r.status_code between 200 and 299, false) as succeeded,
      coalesce(r.status_code = 410, false) as gone
    from unnest(
      p_delivery_ids, p_attempts, p_started_at, p_durations_ms, p_outcomes,
      p_status_codes, p_errors, p_response_bodies, p_retry_afters
    ) as r (
      delivery_id, attempt, started_at, duration_ms, outcome,
      status_code, error, response_body, retry_after
    )
  ),
  target as materialized (
    select d.id, d.webhook_id, d.status, d.leased, d.attempts, d.lost, d.max_attempts
    from webhookpub.deliveries as d
    where d.id = any (p_delivery_ids)
    order by d.id
    for update
  ),
  kept as (
    insert into webhookpub.attempts
      (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error,
       response_body, webhook_id)
    select
      a.delivery_id, a.attempt, a.started_at, a.duration_ms, a.outcome, a.status_code,
      a.error, a.response_body, t.webhook_id
    from answer as a
    join target as t on t.id = a.delivery_id
    on conflict do nothing
  ),
  decided as materialized (
    select distinct on (t.id)
      t.id, t.webhook_id, a.succeeded, a.gone, a.status_code, a.error,
      case
        when a.succeeded then 'delivered'
        when a.gone or t.attempts - t.lost >= t.max_attempts then 'failed'
        else 'pending'
      end as status,
      webhookpub.next_attempt_at(
        w.retry_schedule,
        t.attempts - t.lost,
        case when a.status_code in (429, 503) then webhookpub.retry_after(a.retry_after, v_now) end,
        v_now
      ) as next_attempt_at
    from answer as a
    join target as t on t.id = a.delivery_id
    join webhookpub.webhooks as w on w.id = t.webhook_id
    where t.status = 'pending' and ((t.leased and a.attempt = t.attempts) or a.succeeded)
    order by t.id, a.succeeded desc
  ),
  updated as (
    update webhookpub.deliveries as d
    set
      status = c.status,
      leased = false,
      next_attempt_at = case when c.status = 'pending' then c.next_attempt_at end,
      delivered_at = case when c.status = 'delivered' then v_now end,
      last_status_code = c.status_code,
      last_error = c.error
    from decided as c
    where d.id = c.id
  ),
  health as (
    select c.webhook_id, bool_or(c.succeeded) as succeeded, count(*) as answers
    from decided as c
    group by c.webhook_id
  ),
  changed as materialized (
    select w.id, h.succeeded, h.answers
    from health as h
    join webhookpub.webhooks as w on w.id = h.webhook_id
    cross join webhookpub.settings as s
    where case
      when h.succeeded then
        w.failing_since is not null
        or w.last_delivered_at is null
        or w.last_delivered_at < v_now - interval '10 seconds'
      else w.failing_since is null or w.failures < s.auto_disable_min_failures
    end
    order by w.id
    for no key update of w
  ),
  rated as (
    update webhookpub.webhooks as w
    set
      last_delivered_at = case when c.succeeded then v_now else w.last_delivered_at end,
      failing_since = case when not c.succeeded then coalesce(w.failing_since, v_now) end,
      failures = case when c.succeeded then 0 else w.failures + c.answers end
    from changed as c
    where w.id = c.id
  )
  select
    array_agg(distinct c.webhook_id) filter (where c.gone),
    array_agg(c.id) filter (where c.status = 'failed')
  into v_gone, v_failed
  from decided as c;

  if v_gone is not null then
    perform webhookpub.disable_webhooks(v_gone, 'gone');
  end if;
  if v_failed is not null then
    perform webhookpub.publish_delivery_failed(v_failed);
  end if;
end;
$$;

comment on function webhookpub.record_attempts
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[]) is
  'Records answers (parallel arrays) and moves each delivery to delivered, failed or its next attempt.';
--! EndIncluded 4_record/record_attempts.sql
--! Included 4_record/publish_delivery_failed.sql
-- Tells a user's webhooks that deliveries ended without success.
--
-- Called by  webhookpub.record_attempts, in the transaction that ends them.
--
-- Never about a delivery of a webhook.* event: that would go on for ever. Best effort:
-- a catalog without the type must not keep an answer from being recorded.

create or replace function webhookpub.publish_delivery_failed (
  p_delivery_ids text[]
)
  returns void
  language sql
  volatile
as $$
  select count(public.webhook_publish_best_effort_tx(
    'webhook.delivery_failed',
    w.user_id,
    jsonb_build_object(
      'delivery_id', d.id,
      'webhook_id', d.webhook_id,
      'url', w.url,
      'event_id', d.event_id,
      'event_type', d.event_type,
      'attempts', d.attempts,
      'last_status_code', d.last_status_code,
      'last_error', d.last_error
    ),
    event_id => webhookpub.event_id('webhook.delivery_failed', d.id)
  ))
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.id = any (p_delivery_ids) and d.event_type not like 'webhook.%';
$$;

comment on function webhookpub.publish_delivery_failed (text[]) is
  'Publishes webhook.delivery_failed for each of these deliveries, but never about a webhook.* event.';
--! EndIncluded 4_record/publish_delivery_failed.sql
--! Included 4_record/disable_webhooks.sql
-- Disables webhooks for a reason of the system's own, and tells their users.
--
-- Called by  webhookpub.record_attempts (gone), webhookpub.disable_failing (failing).
-- Locks      the webhooks, in the order of their ids.
-- Returns    how many were enabled until now; only those are told of.

create or replace function webhookpub.disable_webhooks (
  p_webhook_ids text[],
  p_reason text
)
  returns bigint
  language sql
  volatile
as $$
  with enabled as materialized (
    select w.id
    from webhookpub.webhooks as w
    where w.id = any (p_webhook_ids) and w.enabled
    order by w.id
    for no key update
  ),
  disabled as (
    update webhookpub.webhooks as w
    set enabled = false, disabled_at = clock_timestamp(), disabled_reason = p_reason
    from enabled as e
    where w.id = e.id
    returning w.*
  )
  select count(coalesce(public.webhook_publish_best_effort_tx(
    'webhook.disabled',
    d.user_id,
    jsonb_build_object(
      'webhook_id', d.id,
      'url', d.url,
      'reason', d.disabled_reason,
      'disabled_at', webhookpub.rfc3339(d.disabled_at),
      'failing_since', webhookpub.rfc3339(d.failing_since),
      'last_delivered_at', webhookpub.rfc3339(d.last_delivered_at)
    )
  ), ''))
  from disabled as d;
$$;

comment on function webhookpub.disable_webhooks (text[], text) is
  'Disables those of these webhooks that are enabled and publishes webhook.disabled for each.';
--! EndIncluded 4_record/disable_webhooks.sql
--! Included 5_retry/default_retry_schedule.sql
-- The pauses of a webhook that has no schedule of its own.
--
-- Called by  webhookpub.create_webhook.

create or replace function webhookpub.default_retry_schedule ()
  returns interval[]
  language sql
  immutable
  parallel safe
return array[
  '1 minute', '5 minutes', '15 minutes', '1 hour', '4 hours', '8 hours', '16 hours'
]::interval[];

comment on function webhookpub.default_retry_schedule () is
  'Seven pauses: 8 attempts over 29 h 21 min.';
--! EndIncluded 5_retry/default_retry_schedule.sql
--! Included 5_retry/next_attempt_at.sql
-- Says when a delivery is due again after a failed attempt.
--
-- Called by  webhookpub.record_attempts; whether there is a next attempt is decided there.
-- Returns    p_now and the schedule's pause, with up to 10 % jitter either way, or what
--            the receiver asked for when that is longer, up to 24 h.

create or replace function webhookpub.next_attempt_at (
  p_schedule interval[],
  p_attempt integer,
  p_retry_after interval default null,
  p_now timestamptz default clock_timestamp()
)
  returns timestamptz
  language sql
  volatile
  parallel safe
return p_now + greatest(
  -- A schedule that was cut short meanwhile goes on with its last pause.
  coalesce(p_schedule[least(p_attempt, cardinality(p_schedule))], interval '1 minute')
    * (0.9 + 0.2 * random()),
  -- Not least() alone: that takes a null for the 24 hours.
  case when p_retry_after is not null then least(p_retry_after, interval '24 hours') end
);

comment on function webhookpub.next_attempt_at (interval[], integer, interval, timestamptz) is
  'When a delivery is due again after its nth failed attempt.';
--! EndIncluded 5_retry/next_attempt_at.sql
--! Included 5_retry/wake_deliveries.sql
-- Finds webhooks with due deliveries and room for a request, and wakes a worker: due
-- retries, expired leases and lost jobs are one and the same here.
--
-- Called by  webhookpub.wake.
-- Returns    how many webhooks were woken.

create or replace function webhookpub.wake_deliveries (
  p_since timestamptz
)
  returns bigint
  language plpgsql
  volatile
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_webhook_ids text[];
begin
  select array_agg(u.webhook_id) into v_webhook_ids
  from (
    select distinct d.webhook_id
    from webhookpub.deliveries as d
    where d.status = 'pending'
      and d.attempts >= 0
      and d.next_attempt_at <= v_now
      and d.next_attempt_at >= p_since
  ) as u
  join webhookpub.webhooks as w on w.id = u.webhook_id and w.enabled
  -- One that has as many requests under way as it may is left alone: with the next answer
  -- its worker comes back for more.
  where w.max_in_flight > (
    select count(*)
    from webhookpub.deliveries as b
    where b.webhook_id = u.webhook_id and b.status = 'pending' and b.leased
      and b.next_attempt_at > v_now
  );
  if v_webhook_ids is null then
    return 0;
  end if;
  perform webhookpub.add_deliver_jobs(v_webhook_ids);
  return cardinality(v_webhook_ids);
end;
$$;

comment on function webhookpub.wake_deliveries (timestamptz) is
  'Adds jobs for webhooks whose deliveries became due since then and that have room for a request.';
--! EndIncluded 5_retry/wake_deliveries.sql
--! Included 5_retry/wake.sql
-- The tick: makes sure that whatever is due has a job.
--
-- Called by  the wake-up plugin of every worker, once a second and on a NOTIFY, for
--            the last seconds only; webhookpub.maintain, over all time.
-- Locks      none that anybody waits for.

create or replace function webhookpub.wake (
  p_window interval default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_oldest timestamptz;
begin
  select e.created_at into v_oldest
  from webhookpub.events as e
  where e.status = 'pending' and (e.retry_at is null or e.retry_at <= v_now)
  order by e.expires_at
  limit 1;
  -- An awake fan-out finds it by itself, unless its process has been stopped.
  if v_oldest is not null
    and (v_oldest < v_now - interval '2 seconds' or webhookpub.fan_out_is_asleep())
  then
    perform graphile_worker.add_job(
      'webhook_fan_out', job_key => 'webhook_fan_out', priority => -1
    );
  end if;
  perform webhookpub.wake_deliveries(coalesce(v_now - p_window, '-infinity'));
end;
$$;

comment on function webhookpub.wake (interval) is
  'Adds the jobs that are missing: a fan-out for pending events, a delivery for each webhook with something that became due within the window (null: ever).';
--! EndIncluded 5_retry/wake.sql
--! Included 6_maintain/create_partitions.sql
-- Makes the daily partitions of a table ahead of time.
--
-- Called by  webhookpub.maintain; the migration that makes the first ones.
-- Locks      attaching is allowed beside inserts; it gives up after 200 ms and is tried
--            again in the next round, so that no publisher waits behind it.
-- Returns    how many were made.

create or replace function webhookpub.create_partitions (
  p_table regclass,
  p_days_ahead integer default 14,
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '200ms'
as $$
declare
  v_table text := (select c.relname from pg_class as c where c.oid = p_table);
  v_day date;
  v_name text;
  v_count bigint := 0;
begin
  for v_day in
    select g.day::date
    from generate_series(
      p_now::date - 1, p_now::date + p_days_ahead, interval '1 day'
    ) as g (day)
  loop
    v_name := v_table || to_char(v_day, '_YYYYMMDD');
    continue when to_regclass(format('webhookpub.%I', v_name)) is not null;
    begin
      execute format(
        'create table webhookpub.%I (like webhookpub.%I including all)', v_name, v_table
      );
      execute format(
        'comment on table webhookpub.%I is %L', v_name, format('%s of %s.', v_table, v_day)
      );
      execute format(
        'alter table webhookpub.%I attach partition webhookpub.%I for values from (%L) to (%L)',
        v_table, v_name, v_day::timestamptz, (v_day + 1)::timestamptz
      );
      v_count := v_count + 1;
    exception when lock_not_available or check_violation then
      raise warning 'partition % could not be made now: %', v_name, sqlerrm;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.create_partitions (regclass, integer, timestamptz) is
  'Makes the daily partitions (UTC) of envelopes or attempts from yesterday to p_days_ahead; returns how many.';
--! EndIncluded 6_maintain/create_partitions.sql
--! Included 6_maintain/envelopes_are_needed.sql
-- Says whether a day of envelopes must be kept.
--
-- Called by  webhookpub.drop_partitions, about once a day; the last clause then reads
--            that day once.

create or replace function webhookpub.envelopes_are_needed (
  p_from timestamptz,
  p_to timestamptz
)
  returns boolean
  language sql
  stable
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  select exists (
    select
    from webhookpub.deliveries as d
    where d.status = 'pending' and d.event_created_at >= p_from and d.event_created_at < p_to
  ) or exists (
    select
    from webhookpub.envelopes as n
    join webhookpub.events as e on e.id = n.event_id
    where n.created_at >= p_from and n.created_at < p_to
  );
$$;

comment on function webhookpub.envelopes_are_needed (timestamptz, timestamptz) is
  'Whether an event or a pending delivery of that time is still there.';
--! EndIncluded 6_maintain/envelopes_are_needed.sql
--! Included 6_maintain/drop_partitions.sql
-- Drops the daily partitions that nobody needs any more.
--
-- Called by  webhookpub.maintain.
-- Locks      the partitioned table, for the instant of the drop; it gives up after
--            200 ms and is tried again in the next round.
-- Returns    how many were dropped.
--
-- A day of envelopes stays as long as one of its events or a pending delivery needs it.

create or replace function webhookpub.drop_partitions (
  p_table regclass,
  p_before timestamptz
)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '200ms'
as $$
declare
  v_table text := (select c.relname from pg_class as c where c.oid = p_table);
  v_name text;
  v_end timestamptz;
  v_count bigint := 0;
begin
  for v_name, v_end in
    select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') + 1
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = p_table
      and c.relname ~ '_[0-9]{8}$'
      and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= p_before
    order by c.relname
  loop
    continue when v_table = 'envelopes'
      and webhookpub.envelopes_are_needed(v_end - interval '1 day', v_end);
    begin
      execute format('drop table webhookpub.%I', v_name);
      v_count := v_count + 1;
    exception when lock_not_available then
      raise warning 'partition % could not be dropped now: %', v_name, sqlerrm;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.drop_partitions (regclass, timestamptz) is
  'Drops the daily partitions of envelopes or attempts that end before p_before and that nothing needs; returns how many.';
--! EndIncluded 6_maintain/drop_partitions.sql
--! Included 6_maintain/delete_expired.sql
-- Removes a batch of events and ended deliveries whose time has come; never a pending one.
--
-- Called by  webhookpub.maintain.
-- Returns    how many of each.

create or replace function webhookpub.delete_expired (
  p_limit integer default 5000,
  p_now timestamptz default clock_timestamp(),
  out events bigint,
  out deliveries bigint
)
  language plpgsql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
begin
  delete from webhookpub.events as e
  where e.ctid = any (array(
    select x.ctid
    from (values ('processed'), ('no_match')) as s (status)
    cross join lateral (
      select e.ctid
      from webhookpub.events as e
      where e.status = s.status::webhookpub.event_status and e.expires_at <= p_now
      order by e.expires_at
      limit p_limit
      for update skip locked
    ) as x
    limit p_limit
  ));
  get diagnostics events = row_count;

  delete from webhookpub.deliveries as d
  where d.ctid = any (array(
    select x.ctid
    from webhookpub.deliveries as x
    where x.status <> 'pending' and x.expires_at <= p_now
    order by x.expires_at
    limit p_limit
    for update skip locked
  ));
  get diagnostics deliveries = row_count;
end;
$$;

comment on function webhookpub.delete_expired (integer, timestamptz) is
  'Removes up to p_limit expired events and as many expired deliveries; returns how many.';
--! EndIncluded 6_maintain/delete_expired.sql
--! Included 6_maintain/delete_failed_jobs.sql
-- Removes graphile-worker jobs of ours that will never run again.
--
-- Called by  webhookpub.maintain.
-- Returns    how many. Nothing is lost with them: the tables say what is due.

create or replace function webhookpub.delete_failed_jobs (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language sql
  volatile
as $$
  select count(*)
  from graphile_worker.complete_jobs(array(
    select j.id
    from graphile_worker.jobs as j
    where j.task_identifier in ('webhook_fan_out', 'webhook_deliver', 'webhook_maintain')
      and (
        (j.attempts >= j.max_attempts and j.locked_at is null)
        -- Their worker was killed: jobs of ours take seconds, not hours.
        or j.locked_at < p_now - interval '4 hours'
      )
  ));
$$;

comment on function webhookpub.delete_failed_jobs (timestamptz) is
  'Removes jobs of our tasks that are out of attempts or whose worker was killed; returns how many.';
--! EndIncluded 6_maintain/delete_failed_jobs.sql
--! Included 6_maintain/cancel_deleted.sql
-- Cancels deliveries that a fan-out made while their webhook was being deleted.
--
-- Called by  webhookpub.maintain.
-- Returns    how many.

create or replace function webhookpub.cancel_deleted ()
  returns bigint
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  select coalesce(sum(webhookpub.cancel_deliveries(w.id)), 0)::bigint
  from webhookpub.webhooks as w
  where w.deleted_at is not null
    and exists (
      select
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending'
    );
$$;

comment on function webhookpub.cancel_deleted () is
  'Cancels pending deliveries of deleted webhooks; returns how many.';
--! EndIncluded 6_maintain/cancel_deleted.sql
--! Included 6_maintain/disable_failing.sql
-- Disables webhooks that have only failed for too long.
--
-- Called by  webhookpub.maintain.
-- Returns    how many.

create or replace function webhookpub.disable_failing (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language sql
  volatile
as $$
  select webhookpub.disable_webhooks(array(
    select w.id
    from webhookpub.webhooks as w
    cross join webhookpub.settings as s
    where w.enabled
      and w.failing_since <= p_now - s.auto_disable_after
      and w.failures >= s.auto_disable_min_failures
  ), 'failing');
$$;

comment on function webhookpub.disable_failing (timestamptz) is
  'Disables webhooks without a success, but enough failures, for settings.auto_disable_after.';
--! EndIncluded 6_maintain/disable_failing.sql
--! Included 6_maintain/maintain.sql
-- One round of upkeep. With nothing to do it costs almost nothing.
--
-- Called by  the task webhook_maintain, once a minute; psql.
-- Locks      one advisory lock, so that rounds do not meet; a second one does nothing.
-- Returns    what was done and to how many.

create or replace function webhookpub.maintain ()
  returns table (
    task text,
    affected bigint
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_settings webhookpub.settings;
  v_expired record;
  v_changed boolean;
begin
  if not pg_try_advisory_xact_lock(2003006834, 1) then
    return;
  end if;
  select s.* into v_settings from webhookpub.settings as s;
  perform webhookpub.wake();

  return query values
    ('disable_failing', webhookpub.disable_failing(v_now)),
    ('cancel_deleted', webhookpub.cancel_deleted()),
    ('delete_failed_jobs', webhookpub.delete_failed_jobs(v_now));

  task := 'expire_secrets';
  delete from webhookpub.secrets as s where s.expires_at <= v_now;
  get diagnostics affected = row_count;
  return next;

  v_expired := webhookpub.delete_expired(5000, v_now);
  return query values
    ('delete_events', v_expired.events),
    ('delete_deliveries', v_expired.deliveries);

  -- The locks of one table only, in one round: with them held, it never waits for another.
  task := 'drop_partitions';
  affected := webhookpub.drop_partitions(
    'webhookpub.envelopes', v_now - v_settings.event_retention
  );
  if affected = 0 then
    affected := webhookpub.drop_partitions(
      'webhookpub.attempts', v_now - v_settings.attempt_retention
    );
  end if;
  v_changed := affected > 0;
  return next;

  task := 'create_partitions';
  affected := 0;
  if not v_changed then
    affected := webhookpub.create_partitions('webhookpub.envelopes');
    if affected = 0 then
      affected := webhookpub.create_partitions('webhookpub.attempts');
    end if;
  end if;
  return next;
end;
$$;

comment on function webhookpub.maintain () is
  'One round of upkeep: wakes what is due, disables failing webhooks, removes what has expired, keeps the partitions. Returns what it did.';
--! EndIncluded 6_maintain/maintain.sql
--! Included 7_inspect/explain_event.sql
-- Says for every webhook of an event's user whether it matches, and if not, why.
--
-- Called by  psql.
-- Returns    one row a webhook, in the order of their creation. Once fan-out has decided,
--            matched is its decision; if the webhook has changed since, reason says so.
-- Raises     WH020.

create or replace function webhookpub.explain_event (
  event_id text
)
  returns table (
    webhook_id text,
    matched boolean,
    reason text
  )
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_event webhookpub.events;
  v_data jsonb;
begin
  select e.* into v_event from webhookpub.events as e where e.id = explain_event.event_id;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format('no such event: %s', coalesce(quote_literal(explain_event.event_id), 'null')),
      hint = 'Events are kept for settings.event_retention.';
  end if;
  v_data := coalesce(
    v_event.envelope, webhookpub.stored_envelope(v_event.id, v_event.created_at)
  )::jsonb -> 'data';

  return query
  select
    w.id,
    case v_event.status
      when 'pending' then u.clause is null
      else w.id = any (v_event.matched_webhook_ids)
    end,
    case
      when v_event.status = 'pending' or (u.clause is null) = (w.id = any (v_event.matched_webhook_ids))
        then coalesce(u.clause, 'every clause holds')
      when u.clause is null
        then 'every clause holds now; the webhook is newer than the decision, or has changed'
      else 'matched when it was fanned out; now ' || u.clause
    end
  from webhookpub.webhooks as w
  cross join lateral (
    select webhookpub.unmatched_clause(
      w, v_event, webhookpub.type_patterns(v_event.type), v_data
    )
  ) as u (clause)
  where w.user_id = v_event.user_id
  order by w.created_at, w.id;
end;
$$;

comment on function webhookpub.explain_event (text) is
  'For each webhook of the event''s user: whether it matches and which clause decided. Raises WH020.';
--! EndIncluded 7_inspect/explain_event.sql
--! Included 7_inspect/envelopes_by_event.sql
-- The bytes on the wire, by event id.
--
-- Called by  psql: select envelope from webhookpub.envelopes_by_event where event_id = '…';

create or replace view webhookpub.envelopes_by_event
  with (security_invoker = true)
as
  select n.event_id, n.user_id, n.created_at, n.body as envelope
  from webhookpub.envelopes as n
  union all
  select e.id, e.user_id, e.created_at, e.envelope
  from webhookpub.events as e
  where e.envelope is not null;

comment on view webhookpub.envelopes_by_event is
  'The envelope of each event, pending or not, also of those published on the direct path.';
comment on column webhookpub.envelopes_by_event.envelope is
  'The JSON text that is POSTed and signed.';
--! EndIncluded 7_inspect/envelopes_by_event.sql

select
  webhookpub.create_partitions('webhookpub.envelopes'),
  webhookpub.create_partitions('webhookpub.attempts');

revoke execute on all functions in schema webhookpub from public;
revoke execute on function
  public.webhook_publish_tx (text, text, jsonb, text, text, text[], text, text, text),
  public.webhook_publish_best_effort_tx (text, text, jsonb, text, text, text[], text, text, text),
  public.webhook_publish (text, text, jsonb, text, text, text[], text, text, text)
from public;
