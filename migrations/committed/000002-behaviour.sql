--! Previous: sha1:51f92f704a0af96f6dbb17d7824c38c5e0fabdbc
--! Hash: sha1:9af27f5dcfbfc055fc17d01c43ef3c66c379ca70
--! Message: behaviour

-- The behaviour: every file of sql/, in the order in which they lean on one another.

set local check_function_bodies = off;
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
        or e.entry !~ '^([*]|[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)*[.]([*]|[a-z][a-z0-9_]*))$'
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
-- overlong entries, a jsonpath that does not parse, never matches or could take long to match.
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
        jsonb_typeof(f.value) <> 'string' or length(f.value #>> '{}') not between 1 and 1000
      ) then 'data must be a jsonpath of 1 to 1000 characters'
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
    end collate "C" into v_rule
    from jsonb_each(p_filters) as f (key, value)
    order by 1 nulls last
    limit 1;
  end if;

  if v_rule is null then
    begin
      v_rule := 'data ' || webhookpub.predicate_fault((p_filters ->> 'data')::jsonpath);
    exception when others then
      v_rule := format('data is not a jsonpath: %s', sqlerrm);
    end;
  end if;
  if v_rule is not null then
    raise exception using
      errcode = 'WH010',
      message = format('filters %s: %s', coalesce(quote_literal(left(p_filters::text, 200)), 'null'), v_rule),
      hint = webhookpub.json_hint(
        p_filters,
        'Keys: agent_ids, conversation_ids, labels (lists of text), data (a jsonpath predicate: '
          '$.amount > 100 or exists($.items[*] ? (@.sku == "x"))).'
      );
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
    select count(*) <> count(distinct lower(k.name collate "C")) or count(*) > 20
    from jsonb_object_keys(p_headers) as k (name)
  ) then
    v_rule := 'at most 20 headers, and each name once whatever its case';
  else
    select case
      when h.name !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$'
        then format('header %L: that is no header name', left(h.name, 100))
      when lower(h.name collate "C") = any ('{
          host, connection, keep-alive, transfer-encoding, te, trailer, upgrade, expect,
          user-agent, accept-encoding
        }')
        or lower(h.name collate "C") ~ '^(content|proxy|x-forwarded|webhook|x-webhook)-'
        then format('header %L: that one is webhookpub''s own to set', h.name)
      when jsonb_typeof(h.value) <> 'string' or h.value #>> '{}' !~ '^[ -~]*$'
        or length(h.value #>> '{}') > 2000
        then format('header %L: its value must be text of up to 2000 visible ASCII characters', h.name)
    end collate "C" into v_rule
    from jsonb_each(p_headers) as h (name, value)
    order by 1 nulls last
    limit 1;
  end if;
  if v_rule is not null then
    raise exception using
      errcode = 'WH012',
      message = v_rule,
      hint = webhookpub.json_hint(p_headers, 'For example {"authorization": "Bearer …"}.');
  end if;
end;
$$;

comment on function webhookpub.check_headers (jsonb) is 'Raises WH012 when a webhook may not have these headers.';
--! EndIncluded 0_webhooks/check_headers.sql
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
  v_parts text[] := regexp_match(p_url collate "C", '^(https?)://([^/?#]*)([/?#].*)?$', 'i');
  v_host text := lower(
    substring(v_parts[2] from '^([[][^]]*[]]|[^:]*)(?::[0-9]{1,5})?$') collate "C"
  );
  v_port integer := substring(v_parts[2] from ':([0-9]{1,5})$')::integer;
  v_address inet;
  v_rule text;
begin
  select s.* into v_settings from webhookpub.settings as s;
  v_rule := case
    when p_url is null or length(p_url) > 2000 then 'it must be 1 to 2000 characters long'
    when p_url !~ '^[!-~]+$' or p_url ~ E'[\\\\<>"`{}|^]'
      then 'it must be plain ASCII without blanks; names in punycode, the rest %-encoded'
    when v_parts is null then 'it must start with https://'
    when lower(v_parts[1] collate "C") = 'http' and not v_settings.allow_http
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
  elsif v_rule is null and v_host ~ '(^|[.])(0x[0-9a-f]*|[0-9]+)[.]?$' then
    -- What ends in a number is an IPv4 address to every client, in some notation.
    if v_host ~ '^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])([.]|$)){4}$'
      and v_host !~ '[.]$'
    then
      v_address := v_host::inet;
    else
      v_rule := 'an IPv4 address must be four decimal numbers';
    end if;
  elsif v_rule is null
    and v_host !~ '^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?[.])*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.]?$'
  then
    v_rule := 'its host is not valid';
  end if;

  v_rule := coalesce(v_rule, case
    when v_address is not null
      and not webhookpub.address_is_open(v_address, v_settings.allowed_networks)
      then 'the address is not public (settings.allowed_networks)'
    when v_address is null and v_host ~ '(^|[.])(localhost|local|internal|localdomain)[.]?$'
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
  v_rule constant text := webhookpub.webhook_fault(p_webhook);
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
  if v_rule is not null then
    raise exception using
      errcode = 'WH010',
      message = v_rule,
      hint = 'docs/webhooks.md says what a webhook may be.';
  end if;
end;
$$;

comment on function webhookpub.check_webhook (webhookpub.webhooks) is
  'Raises WH005, WH010, WH011 or WH012 when this is no valid webhook.';
--! EndIncluded 0_webhooks/check_webhook.sql
--! Included 0_webhooks/create_webhook.sql
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
--! EndIncluded 0_webhooks/create_webhook.sql
--! Included 0_webhooks/delete_webhook.sql
-- Deletes a webhook for good: pending deliveries are cancelled and its secrets erased;
-- history stays until it expires.
--
-- Called by  applications, psql.
-- Locks      the webhook, then its pending deliveries, those that wait for their turn last, as
--            webhookpub.skip and webhookpub.end_order do: what is being recorded or leased is
--            waited for, and waits for nobody itself.
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
  perform webhookpub.end_deliveries(array(
    select q.delivery_id
    from webhookpub.queue as q
    where q.webhook_id = p_webhook_id
    order by q.turn_at is not null, q.delivery_id
    for update
  ), 'cancelled');
end;
$$;

comment on function webhookpub.delete_webhook (text) is
  'Deletes a webhook for good: cancels what is pending, erases its secrets, keeps its history. Raises WH020, WH021.';
--! EndIncluded 0_webhooks/delete_webhook.sql
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
--! Included 0_webhooks/enable_webhook.sql
-- Enables a webhook again: its pending deliveries go on, its failures are forgotten. One
-- that is enabled, but whose circuit is open or whose receiver asked for a pause, is tried at once.
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
    failures = 0,
    unanswered = 0,
    circuit_opened_at = null,
    circuit_retry_at = null,
    paused_until = null
  where w.id = p_webhook_id
    and (not w.enabled or w.circuit_opened_at is not null or w.paused_until is not null);
  if found then
    perform webhookpub.add_deliver_jobs(array[p_webhook_id]);
  end if;
end;
$$;

comment on function webhookpub.enable_webhook (text) is
  'Enables a webhook and closes its circuit; what waited goes on, and its failure window starts anew. Raises WH020, WH021.';
--! EndIncluded 0_webhooks/enable_webhook.sql
--! Included 0_webhooks/end_order.sql
-- Makes due what waits for its turn, for a webhook that is no longer ordered.
--
-- Called by  webhookpub.update_webhook.
-- Locks      what goes by an ordering key, waiting for what is being fanned out, leased or
--            recorded.
--
-- The first statement waits for fan-outs that put something behind these, the second one sees it.
-- Fan-outs that come later find all of it locked, and leave their events pending until this ends.

create or replace function webhookpub.end_order (
  p_webhook_id text
)
  returns void
  language plpgsql
  volatile
as $$
begin
  perform
  from webhookpub.queue as q
  where q.webhook_id = p_webhook_id and q.ordering_key is not null
  order by q.turn_at is not null, q.delivery_id
  for update;
  update webhookpub.queue as q
  set
    ordering_key = null,
    turn_at = null,
    due_at = case when q.turn_at is null then q.due_at else clock_timestamp() end
  where q.webhook_id = p_webhook_id and q.ordering_key is not null;
end;
$$;

comment on function webhookpub.end_order (text) is
  'Makes due what waits for its turn in a webhook, whatever the order.';
--! EndIncluded 0_webhooks/end_order.sql
--! Included 0_webhooks/find_webhook.sql
-- Finds the webhook that somebody names, without locking it.
--
-- Called by  webhookpub.lock_webhook, webhookpub.redeliver_since, webhookpub.test_webhook.
-- Raises     WH020; WH021 when it is deleted, or disabled where it must not be.

create or replace function webhookpub.find_webhook (
  p_webhook_id text,
  p_enabled_only boolean default false
)
  returns webhookpub.webhooks
  language plpgsql
  stable
as $$
declare
  v_webhook webhookpub.webhooks;
begin
  select w.* into v_webhook from webhookpub.webhooks as w where w.id = p_webhook_id;
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
  if p_enabled_only and not v_webhook.enabled then
    raise exception using
      errcode = 'WH021',
      message = format(
        'webhook %L is disabled since %s: %s',
        p_webhook_id, v_webhook.disabled_at, v_webhook.disabled_reason
      ),
      hint = 'Nothing is sent to it before webhookpub.enable_webhook.';
  end if;
  return v_webhook;
end;
$$;

comment on function webhookpub.find_webhook (text, boolean) is
  'Returns a webhook. Raises WH020 when there is none, WH021 when it is deleted or, if p_enabled_only, disabled.';
--! EndIncluded 0_webhooks/find_webhook.sql
--! Included 0_webhooks/lock_webhook.sql
-- Finds the webhook that somebody wants to change, and locks it.
--
-- Called by  the functions that change one.
-- Locks      the webhook, until the transaction ends.
-- Raises     WH020; WH021 when it is deleted.

create or replace function webhookpub.lock_webhook (
  p_webhook_id text
)
  returns webhookpub.webhooks
  language plpgsql
  volatile
as $$
begin
  perform from webhookpub.webhooks as w where w.id = p_webhook_id for no key update;
  -- Only now, as the last holder of the lock has left it.
  return webhookpub.find_webhook(p_webhook_id);
end;
$$;

comment on function webhookpub.lock_webhook (text) is
  'Locks a webhook and returns it. Raises WH020 when there is none, WH021 when it is deleted.';
--! EndIncluded 0_webhooks/lock_webhook.sql
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
  select coalesce(jsonb_object_agg(lower(h.name collate "C"), h.value), '{}')
  from jsonb_each(p_headers) as h (name, value)
);

comment on function webhookpub.lower_names (jsonb) is 'The same headers, their names in lower case.';
--! EndIncluded 0_webhooks/lower_names.sql
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
--! Included 0_webhooks/predicate_fault.sql
-- Says why a jsonpath can't be a filter: because it never matches, or because somebody could
-- write data that it takes minutes to match, while everybody's events wait for it.
--
-- Called by  webhookpub.check_filters.
-- Returns    the rule that it breaks, or null.
--
-- It need not tell all that is cheap from all that is dear, only let nothing dear pass.

create or replace function webhookpub.predicate_fault (
  p_predicate jsonpath
)
  returns text
  language plpgsql
  immutable
  strict
  parallel safe
as $$
declare
  v_form constant text := regexp_replace(p_predicate::text, E'"(?:[^"\\\\]|\\\\.)*"', 's', 'g');
  v_outline constant text := webhookpub.predicate_outline(p_predicate);
  v_shape text;
begin
  if regexp_count(v_form, E'[$@?]|\\.\\**|\\[\\*?|[-+*/%=<>!&|]+|like|starts') > 60 then
    return 'may have at most 60 steps and operators';
  end if;
  v_shape := webhookpub.predicate_shape(v_outline);
  return case
    when v_form ~ E'\\$s' then 'may have no variables'
    when v_form ~ E'\\d{41}' then 'may have numbers of at most 40 digits'
    when regexp_count(v_form, E'\\*\\*') > 1 then 'may have ** once'
    when regexp_count(v_outline, '#') > 10
      then 'may have [*], .*, ** and [… to …] ten times in all'
    when v_shape in ('b', 'B') then webhookpub.regex_fault(p_predicate)
    when v_shape ~ '^[kcCmM]$' then 'is a value, not a predicate: it never matches'
    when v_shape ~ E'\\?\\(B\\)' then 'may have $ outside of ? (…) only: in there, @ is the item'
    when v_shape ~ '[mM] [!=<>]+ [mM]'
      then 'may compare with a constant only, for each value may be a list'
    when v_shape ~ '[cCmM] [*/%] [cCmM]' then 'may multiply and divide by a constant only'
    when v_shape ~ E'\\.keyvalue' then 'may not have .keyvalue()'
    when v_shape ~ E'\\[' then 'may have one index in [ ], made of numbers and last'
    else 'is too complicated'
  end;
end;
$$;

comment on function webhookpub.predicate_fault (jsonpath) is
  'Why this jsonpath can not be a filter: it never matches, or could take long; null when it can.';
--! EndIncluded 0_webhooks/predicate_fault.sql
--! Included 0_webhooks/predicate_outline.sql
-- Writes a jsonpath by its form alone: the steps and operators that its cost depends on, and
-- nothing that a user wrote.
--
-- Called by  webhookpub.predicate_fault.
-- Returns    $.items[*]?(@.sku == "x") as $#?(@ == k). k is a constant, # a step to all parts,
--            $ and @ are where a path begins; in strict mode R and r, for there it is one
--            value until a # makes it many, and in lax mode each list in it is gone through.
--
-- It goes by the text that PostgreSQL prints, which has one form for everything.

create or replace function webhookpub.predicate_outline (
  p_predicate jsonpath
)
  returns text
  language plpgsql
  immutable
  strict
  parallel safe
as $$
declare
  v_text text := p_predicate::text;
  v_rule text[];
begin
  foreach v_rule slice 1 in array array[
    ['^strict (.*)$', E'\\1 strict'],
    [E'"(?:[^"\\\\]|\\\\.)*"', 's'], -- a key is then .s
    [' like_regex s(?: flag s)?| starts with s', ' like'],
    [E'\\d+(?:\\.\\d+)?', 'n'],
    [E'\\[\\*\\]|\\[-?(?:n|last)(?: [-+] n)? to -?(?:n|last)(?: [-+] n)?\\]', '#'],
    [E'\\[-?(?:n|last)(?: [-+] n)?\\]', ''],
    [E'\\.\\*\\*(?:\\{[^}]*\\})?|\\.\\*', '#'],
    [E'\\.(?:type|size|abs|floor|ceiling|double|number|integer|bigint|decimal|boolean|string'
      || E'|datetime|date|time|time_tz|timestamp|timestamp_tz)\\((?:s|n(?:,n)?)?\\)', ''],
    [E'\\.s(?![a-z])', ''],
    ['(?<![a-z$])(?:true|false|null|s|n)(?![a-z])', 'k']
  ] loop
    v_text := regexp_replace(v_text, v_rule[1], v_rule[2], 'g');
  end loop;
  if v_text like '% strict' then
    v_text := translate(left(v_text, -7), '$@', 'Rr');
  end if;
  return v_text;
end;
$$;

comment on function webhookpub.predicate_outline (jsonpath) is
  'The form of a jsonpath: k for constants, # for steps to all parts, and its operators.';
--! EndIncluded 0_webhooks/predicate_outline.sql
--! Included 0_webhooks/predicate_shape.sql
-- Says what a jsonpath comes to, if its cost grows no faster than the data does.
--
-- Called by  webhookpub.predicate_fault.
-- Returns    b or B for such a predicate; for a value k (constant), c and C (one at most) or m
--            and M (perhaps many). Small ones come from the item of a filter (@), capital ones
--            from the whole data ($). Else what is left where no rule holds any more.
--
-- The rules: many values are compared with one only, or each would be with each; long numbers are
-- multiplied and divided by a constant only; and what a filter asks about each item, it asks that
-- item, or the whole data would be gone through for each.

create or replace function webhookpub.predicate_shape (
  p_outline text
)
  returns text
  language plpgsql
  immutable
  strict
  parallel safe
as $$
declare
  v_rules constant text[] := array[
    [E'\\?\\(b\\)', ''], -- a filter takes no more than there is
    [E'\\$#*(?![#?])|R#+(?![#?])', 'M'], ['@#*(?![#?])|r#+(?![#?])', 'm'],
    ['R(?![#?])', 'C'], ['r(?![#?])', 'c'], ['([kcCmM])#', E'\\1'],
    ['[-+]([kcCmM])', E'\\1'],
    ['k [*/%] k', 'k'], ['k [*/%] [cm]|[cm] [*/%] k', 'c'], ['k [*/%] [CM]|[CM] [*/%] k', 'C'],
    ['(?<![*/%] )k [-+] k(?! [*/%])', 'k'],
    ['(?<![*/%] )[kcm] [-+] [kcm](?! [*/%])', 'c'],
    ['(?<![*/%] )[kcCmM] [-+] [kcCmM](?! [*/%])', 'C'],
    ['(?<![-+*/%] )(?:[kc] [!=<>]+ [kcm]|m [!=<>]+ [kc])(?! [-+*/%])', 'b'],
    ['(?<![-+*/%] )(?:[kcC] [!=<>]+ [kcCmM]|[mM] [!=<>]+ [kcC])(?! [-+*/%])', 'B'],
    [E'(?<![-+*/%] )[kcm] like|exists \\([kcm]\\)', 'b'],
    [E'(?<![-+*/%] )[CM] like|exists \\([CM]\\)', 'B'],
    [E'!\\(([bB])\\)|\\(([bB])\\) is unknown', E'\\1\\2'],
    [E'b (?:&&|\\|\\|) b', 'b'], [E'[bB] (?:&&|\\|\\|) [bB]', 'B'],
    [E'(?<![?!])(?<!exists )\\(([kcCmMbB])\\)(?! is unknown)', E'\\1']
  ];
  v_rule text[];
  v_shape text := p_outline;
  v_before text;
begin
  loop
    v_before := v_shape;
    foreach v_rule slice 1 in array v_rules loop
      v_shape := regexp_replace(v_shape, v_rule[1], v_rule[2], 'g');
    end loop;
    exit when v_shape = v_before;
  end loop;
  return v_shape;
end;
$$;

comment on function webhookpub.predicate_shape (text) is
  'What the outline of a jsonpath comes to: b or B for a predicate that is not dear.';
--! EndIncluded 0_webhooks/predicate_shape.sql
--! Included 0_webhooks/regex_fault.sql
-- Says why a regular expression of a jsonpath can't be in a filter: because some text could
-- keep it busy for seconds.
--
-- Called by  webhookpub.predicate_fault.
-- Returns    the rule that one of them breaks, or null.
--
-- PostgreSQL matches in one pass over the text, but for back references and constraints that
-- look around; what each character costs grows with the length of the expression, when its
-- counts are written out.

create or replace function webhookpub.regex_fault (
  p_predicate jsonpath
)
  returns text
  language sql
  immutable
  strict
  parallel safe
as $$
  select case
    when count(*) > 5 then 'may have like_regex five times'
    when bool_or(length(r.regex) > 100) then 'may have a like_regex of at most 100 characters'
    when bool_or(r.regex ~ E'\\\\[1-9]|\\(\\?(?!:)')
      then 'may have a like_regex without back references, options and looking around'
    when bool_or(r.regex ~ E'\\)\\{') or sum(r.counts) > 100
      then 'may have a like_regex with counts of 100 in all, and none after a group'
  end
  from (
    select m.parts[1]::jsonb #>> '{}' as regex
    from regexp_matches(
      p_predicate::text, E'(?:like_regex ("(?:[^"\\\\]|\\\\.)*")|"(?:[^"\\\\]|\\\\.)*")', 'g'
    ) as m (parts)
    where m.parts[1] is not null
    offset 0
  ) as m
  cross join lateral (
    select m.regex, (
      select sum(c.parts[1]::integer)
      from regexp_matches(m.regex, E'(\\d{1,9})\\}', 'g') as c (parts)
    ) as counts
  ) as r;
$$;

comment on function webhookpub.regex_fault (jsonpath) is
  'The rule that a like_regex of a jsonpath breaks; null when each is cheap to match.';
--! EndIncluded 0_webhooks/regex_fault.sql
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
--! Included 0_webhooks/update_webhook.sql
-- Changes a webhook; what is null stays as it is. Counts for events fanned out from now
-- on, and for attempts begun from now on. A new URL is tried at once, whatever the
-- circuit of the old one was. Without order, what waits for its turn is due at once; by another
-- pace, what waits for that goes by the new one at once.
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
  p_request_timeout interval default null,
  p_ordered boolean default null,
  p_max_per_second numeric default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook webhookpub.webhooks := webhookpub.lock_webhook(p_webhook_id);
  v_moved constant boolean := coalesce(p_url <> v_webhook.url, false);
  v_freed constant boolean := v_webhook.ordered and not coalesce(p_ordered, true);
begin
  v_webhook.url := coalesce(p_url, v_webhook.url);
  v_webhook.events := coalesce(p_events, v_webhook.events);
  v_webhook.filters := coalesce(p_filters, v_webhook.filters);
  v_webhook.description := coalesce(p_description, v_webhook.description);
  v_webhook.headers := coalesce(p_headers, v_webhook.headers);
  v_webhook.max_in_flight := coalesce(p_max_in_flight, v_webhook.max_in_flight);
  v_webhook.retry_schedule := coalesce(p_retry_schedule, v_webhook.retry_schedule);
  v_webhook.request_timeout := coalesce(p_request_timeout, v_webhook.request_timeout);
  v_webhook.ordered := coalesce(p_ordered, v_webhook.ordered);
  v_webhook.max_per_second := coalesce(p_max_per_second, v_webhook.max_per_second);
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
    request_timeout = v_webhook.request_timeout,
    ordered = v_webhook.ordered,
    max_per_second = nullif(v_webhook.max_per_second, 'infinity'),
    unanswered = case when v_moved then 0 else w.unanswered end,
    circuit_opened_at = case when not v_moved then w.circuit_opened_at end,
    circuit_retry_at = case when not v_moved then w.circuit_retry_at end,
    paused_until = case when not v_moved then w.paused_until end
  where w.id = p_webhook_id;
  if v_freed then
    perform webhookpub.end_order(p_webhook_id);
  end if;
  if v_freed or p_max_per_second is not null
    or v_moved and coalesce(v_webhook.circuit_opened_at, v_webhook.paused_until) is not null
  then
    perform webhookpub.add_deliver_jobs(array[p_webhook_id]);
  end if;
end;
$$;

comment on function webhookpub.update_webhook
  (text, text, text[], jsonb, text, jsonb, integer, interval[], interval, boolean, numeric) is
  'Changes a webhook; null leaves a value as it is, and infinity takes max_per_second away. Raises WH010, WH011, WH012, WH020, WH021.';
--! EndIncluded 0_webhooks/update_webhook.sql
--! Included 0_webhooks/webhook_fault.sql
-- Says what is wrong with the plain values of a webhook.
--
-- Called by  webhookpub.check_webhook.
-- Returns    a sentence; null when nothing is wrong.

create or replace function webhookpub.webhook_fault (
  p_webhook webhookpub.webhooks
)
  returns text
  language sql
  stable
as $$
  select case
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
    when p_webhook.ordered is null
      then 'ordered must be true or false, not null'
    when not (
      p_webhook.max_per_second between 0.001 and 10000 or p_webhook.max_per_second = 'infinity'
    )
      then format(
        'max_per_second %s must be 0.001 to 10000, or infinity for none', p_webhook.max_per_second
      )
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
$$;

comment on function webhookpub.webhook_fault (webhookpub.webhooks) is
  'What is wrong with the plain values of a webhook; null: nothing.';
--! EndIncluded 0_webhooks/webhook_fault.sql
--! Included 1_publish/check_event_types.sql
-- Refuses a list of event types that the catalog could not take.
--
-- Called by  webhookpub.register_event_types.
-- Raises     WH008.

create or replace function webhookpub.check_event_types (
  p_types jsonb
)
  returns void
  language plpgsql
  immutable
as $$
declare
  v_problem text;
begin
  if jsonb_typeof(p_types) is distinct from 'array' then
    v_problem := coalesce(left(p_types::text, 100), 'null') || ' is no array';
  else
    select format('%s: %s', left(t.type::text, 100), case
      when jsonb_typeof(t.type) <> 'object' then 'it is no object'
      when jsonb_typeof(t.type -> 'name') is distinct from 'string'
        or t.type ->> 'name' !~ '^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)+$'
        or length(t.type ->> 'name') > 100
        then 'a name is dot-separated lowercase words, up to 100 characters'
      when jsonb_typeof(t.type -> 'schema') not in ('object', 'null') then 'its schema is no object'
      else 'it stands there twice'
    end)
    into v_problem
    from (
      select e.type, count(*) over (partition by e.type ->> 'name') as times
      from jsonb_array_elements(p_types) as e (type)
    ) as t
    where jsonb_typeof(t.type) <> 'object'
      or jsonb_typeof(t.type -> 'name') is distinct from 'string'
      or t.type ->> 'name' !~ '^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)+$'
      or length(t.type ->> 'name') > 100
      or jsonb_typeof(t.type -> 'schema') not in ('object', 'null')
      or t.times > 1
    limit 1;
  end if;
  if v_problem is not null then
    raise exception using
      errcode = 'WH008',
      message = 'event types ' || v_problem,
      hint = 'Pass [{"name": "order.created", "description": "…", "schema": {…}}], each name once.';
  end if;
end;
$$;

comment on function webhookpub.check_event_types (jsonb) is
  'Raises WH008 for a list of event types that the catalog could not take.';
--! EndIncluded 1_publish/check_event_types.sql
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
  if (case
    when pg_catalog.array_ndims(parts) = 1 then pg_catalog.array_position(parts, null) is null
  end) then
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
      'event id parts %s: a flat list of at least one is needed, and none may be null',
      coalesce(pg_catalog.quote_literal(pg_catalog.left(parts::text, 200)), 'null')
    ),
    hint = 'Leave out parts that are unknown, or use webhookpub.random_event_id().';
end;
$$;

comment on function webhookpub.event_id (text[]) is
  'evt_ and the first 32 hex digits of SHA-256 over the parts joined by |. Raises WH001.';
--! EndIncluded 1_publish/event_id.sql
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
--! Included 1_publish/is_event_id.sql
-- Says whether a text can be an event id. It travels as an HTTP header and in JSON.
--
-- Called by  public.webhook_publish_tx, webhookpub.refuse_event.

create or replace function webhookpub.is_event_id (
  p_event_id text
)
  returns boolean
  language sql
  immutable
  parallel safe
return p_event_id ~ '^[]!#-[^-~]+$' and length(p_event_id) <= 200;

comment on function webhookpub.is_event_id (text) is
  '1 to 200 visible ASCII characters without double quote and backslash.';
--! EndIncluded 1_publish/is_event_id.sql
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
--! Included 1_publish/json_hint.sql
-- Says what to do about a value that should be a JSON object. A driver that was given JSON
-- as text for a jsonb parameter makes a JSON string of it: so do most, and nothing shows it.
--
-- Called by  webhookpub.refuse_event, webhookpub.check_filters, webhookpub.check_headers.
-- Returns    how to encode it once, when it is a JSON string that holds a JSON object;
--            else the hint that is given.

create or replace function webhookpub.json_hint (
  p_value jsonb,
  p_hint text
)
  returns text
  language plpgsql
  immutable
  parallel safe
as $$
begin
  if jsonb_typeof(p_value) = 'string'
    and jsonb_typeof((p_value #>> '{}')::jsonb) = 'object'
  then
    return 'It was encoded twice: the driver made a JSON string of JSON text. Pass the object '
      'itself, or cast the parameter: $1::text::jsonb.';
  end if;
  return p_hint;
exception when others then
  return p_hint;
end;
$$;

comment on function webhookpub.json_hint (jsonb, text) is
  'The hint for a value that is no JSON object; another one for JSON that was encoded twice.';
--! EndIncluded 1_publish/json_hint.sql
--! Included 1_publish/notify_is_due.sql
-- Decides whether this publisher has to NOTIFY.
--
-- Called by  public.webhook_publish_tx, while no fan-out is awake.
-- Locks      two advisory locks until the end of the transaction, and waits for neither: one that
--            all share who publish while no fan-out is awake (webhookpub.others_publish), and one
--            that the first of them has, who is about to NOTIFY.
-- Returns    false when settings.notify_enabled is, when the server's queue of notifications is
--            half full (at its end, commits would fail), and while another transaction is about
--            to, and has been for less than 50 ms. Whom that wakes looks again until all have
--            ended that share the lock; else the tick finds the event.
--
-- A commit with a NOTIFY in it waits for every other such commit of the server. One at a
-- time waits for none, even when no worker runs.

create or replace function webhookpub.notify_is_due ()
  returns boolean
  language plpgsql
  volatile
as $$
declare
  v_now constant bigint := extract(epoch from clock_timestamp()) * 1000;
  v_is_seen boolean;
begin
  perform from webhookpub.settings as s where s.notify_enabled;
  if not found then
    return false;
  end if;
  -- Not while a fan-out looks, at this instant. First, so that none looks between the two.
  v_is_seen := pg_try_advisory_xact_lock_shared(2003006832, 5);
  -- A sequence, because others see what is set before it is committed. The difference is
  -- below zero when the clock was set back.
  if pg_try_advisory_xact_lock(2003006832, 4)
    or not v_is_seen
    or v_now - (select n.last_value from webhookpub.notified_at as n) not between 0 and 50
  then
    -- Each call writes to the log; of a burst some milliseconds are told of by one.
    perform setval('webhookpub.notified_at', v_now)
    from webhookpub.notified_at as n
    where v_now - n.last_value not between 0 and 10;
    return pg_notification_queue_usage() < 0.5;
  end if;
  return false;
end;
$$;

comment on function webhookpub.notify_is_due () is
  'Whether a publisher must NOTIFY: not while another is about to, for up to 50 ms.';
--! EndIncluded 1_publish/notify_is_due.sql
--! Included 1_publish/others_publish.sql
-- Tells a fan-out whether somebody is publishing who leaves the NOTIFY to another, and has not
-- committed yet: such an event may come after the look that the NOTIFY brings.
--
-- Called by  webhookpub.fan_out_batch, before it looks: what has ended by then is seen.
-- Locks      such publishers hold this advisory lock in share mode until they end
--            (webhookpub.notify_is_due). Whoever gets it exclusively, if only for this
--            instant, knows that there is none; nobody ever waits.

create or replace function webhookpub.others_publish ()
  returns boolean
  language sql
  volatile
return case
  when pg_try_advisory_lock(2003006832, 5) then not pg_advisory_unlock(2003006832, 5)
  else true
end;

comment on function webhookpub.others_publish () is
  'Whether somebody is publishing who sends no NOTIFY, and has not committed.';
--! EndIncluded 1_publish/others_publish.sql
--! Included 1_publish/publish_row.sql
-- Publishes the change of a row: a trigger function for those who would rather write none.
--
-- Called by  AFTER triggers FOR EACH ROW: execute function webhookpub.publish_row(event type,
--            column of the user's id [, column of the row's id [, columns for the payload …]]).
-- Raises     WH007 when the trigger is not made for it; and what webhook_publish_tx raises.
--
-- The row's id becomes message_id and ordering key. Each change is an event of its own: the
-- transaction and the time tell it from others of the row. Whoever repeats a transaction that
-- was committed changes nothing the second time, and then nothing is published.
--
-- What it says of a row does not depend on who changes it: what values are printed by is pinned.
--
-- It runs with the rights of who changes the row, who needs EXECUTE on webhook_publish_tx: to make
-- JSON of a row can call functions of whoever made its types.

create or replace function webhookpub.publish_row ()
  returns trigger
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set datestyle = 'ISO, MDY'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set extra_float_digits = 1
  set bytea_output = 'hex'
  set lc_monetary = 'C'
  set quote_all_identifiers = off
as $$
declare
  v_row constant jsonb := case tg_op when 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
  v_id constant text := v_row ->> tg_argv[2];
  v_columns constant text[] := case when tg_nargs > 3 then tg_argv[3:] end;
  v_rule text;
  v_object jsonb;
  v_previous jsonb;
begin
  v_rule := case
    when tg_when <> 'AFTER' or tg_level <> 'ROW' then 'it must be an AFTER trigger FOR EACH ROW'
    when tg_nargs < 2 then 'it needs an event type and the column of the user''s id'
    when not v_row ?& tg_argv[1:] then (
      select format('there is no column %I', min(a.name))
      from unnest(tg_argv[1:]) as a (name) where not v_row ? a.name
    )
    when v_row ->> tg_argv[1] is null
      then format('column %I, which holds the user''s id, is null', tg_argv[1])
  end;
  if v_rule is not null then
    raise exception using
      errcode = 'WH007',
      message = format('trigger %I on %s: %s', tg_name, tg_relid::regclass, v_rule),
      hint = 'execute function webhookpub.publish_row(event type, column of the user''s id'
        ' [, column of the row''s id [, columns for the payload …]])';
  end if;

  select
    jsonb_object_agg(c.key, c.value),
    jsonb_object_agg(c.key, o.value) filter (where o.value is distinct from c.value)
  into v_object, v_previous
  from jsonb_each(v_row) as c
  left join jsonb_each(case tg_op when 'UPDATE' then to_jsonb(old) else v_row end) as o using (key)
  where v_columns is null or c.key = any (v_columns);
  if tg_op <> 'UPDATE' or v_previous is not null then
    perform public.webhook_publish_tx(
      tg_argv[0], v_row ->> tg_argv[1],
      jsonb_build_object('object', v_object)
        || case when v_previous is null then '{}' else jsonb_build_object('previous', v_previous) end,
      message_id => v_id, ordering_key => v_id,
      dedup_key => case when v_id is not null
        then concat_ws('.', pg_current_xact_id(), extract(epoch from clock_timestamp()))
      end
    );
  end if;
  return null;
end;
$$;

comment on function webhookpub.publish_row () is
  'Trigger function: publishes a changed row. Arguments: event type, column of the user''s id, and if wanted column of the row''s id, which is the ordering key, and columns for the payload (else all). Raises WH007.';
--! EndIncluded 1_publish/publish_row.sql
--! Included 1_publish/random_event_id.sql
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
--! EndIncluded 1_publish/random_event_id.sql
--! Included 1_publish/refuse_event.sql
-- Says why an event was not written.
--
-- Called by  public.webhook_publish_tx, when it was not.
-- Returns    true when the user has published this id before; false when publishing is
--            switched off; null when nothing speaks against the event any more.
-- Raises     WH001, WH002, WH003, WH004, WH005, WH006.

create or replace function webhookpub.refuse_event (
  p_event_type text,
  p_user_id text,
  p_data jsonb,
  p_event_id text,
  p_ordering_key text,
  p_label_count integer,
  p_bytes integer
)
  returns boolean
  language plpgsql
  volatile
as $$
declare
  v_settings webhookpub.settings;
  v_owner text;
begin
  select s.* into v_settings from webhookpub.settings as s;
  if not v_settings.publish_enabled then
    return false;
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
  if (p_event_type = any (v_settings.event_types)) is not true then
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
      hint = webhookpub.json_hint(
        p_data, 'Wrap it, for example with jsonb_build_object(''value'', …).'
      );
  end if;
  if not webhookpub.is_event_id(p_event_id) then
    raise exception using
      errcode = 'WH001',
      message = format(
        'event id %L: it must be 1 to 200 visible ASCII characters without double quote and backslash',
        left(p_event_id, 210)
      ),
      hint = 'It travels as an HTTP header and in JSON. Leave it out to get one made.';
  end if;
  if length(p_ordering_key) not between 1 and 200 then
    raise exception using
      errcode = 'WH006',
      message = format(
        'ordering key %L: it must be 1 to 200 characters', left(p_ordering_key, 40)
      ),
      hint = 'It names what the event is about, such as an order''s id. Null: there is no order.';
  end if;
  if p_label_count > 1000 then
    raise exception using
      errcode = 'WH003',
      message = format('event with %s labels: it may have at most 1000', p_label_count),
      hint = 'A filter by labels looks at each of them.';
  end if;
  if p_bytes > v_settings.max_payload_bytes then
    raise exception using
      errcode = 'WH003',
      message = format(
        'event of %s bytes is over the limit of %s', p_bytes, v_settings.max_payload_bytes
      ),
      hint = 'Send a reference instead, or raise webhookpub.settings.max_payload_bytes.';
  end if;
  -- Looked up anew: the other may have committed while this one waited for it.
  select e.user_id into v_owner from webhookpub.events as e where e.id = p_event_id;
  if v_owner <> p_user_id then
    raise exception using
      errcode = 'WH004',
      message = format('event id %L belongs to another user than %L', p_event_id, p_user_id),
      hint = 'Make the id, message_id or dedup_key unique over all users.';
  end if;
  return case when v_owner is not null then true end;
end;
$$;

comment on function webhookpub.refuse_event (text, text, jsonb, text, text, integer, integer) is
  'Raises why an event was not written: WH001 to WH006; true when it was there already, false when publishing is off, null when it can be written now.';
--! EndIncluded 1_publish/refuse_event.sql
--! Included 1_publish/register_event_types.sql
-- Adds event types to the catalog, and brings those that are there up to date. Removes none.
--
-- Called by  webhookpub catalog, for the types that an application declares.
-- Returns    each type with what became of it: added, changed or unchanged.
-- Raises     WH008.

create or replace function webhookpub.register_event_types (
  p_types jsonb
)
  returns table (name text, outcome text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform webhookpub.check_event_types(p_types);
  return query
    with declared as (
      select d.name, coalesce(d.description, '') as description, d.schema
      from jsonb_to_recordset(p_types) as d (name text, description text, schema jsonb)
    ),
    changed as (
      insert into webhookpub.event_types as t (name, description, schema)
      select d.name, d.description, d.schema
      from declared as d
      on conflict (name) do update
      set description = excluded.description, schema = excluded.schema
      where (t.description, t.schema) is distinct from (excluded.description, excluded.schema)
      returning t.name
    )
    select
      d.name,
      case
        when c.name is null then 'unchanged'
        when t.name is null then 'added'
        else 'changed'
      end
    from declared as d
    left join changed as c on c.name = d.name
    -- As it was before.
    left join webhookpub.event_types as t on t.name = d.name
    order by d.name;
end;
$$;

comment on function webhookpub.register_event_types (jsonb) is
  'Adds types to the catalog or updates them: [{"name", "description", "schema"}]. Returns what became of each. Raises WH008.';
--! EndIncluded 1_publish/register_event_types.sql
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
--! Included 1_publish/webhook_publish.sql
-- Publishes on the direct path: matches and inserts the deliveries at once, in the caller's
-- transaction.
--
-- Called by  applications that do not want to wait for a fan-out.
-- Locks      nothing that another publisher waits for, but for one that publishes the
--            very same id at this moment.
-- Returns    the event id; null when publishing is off or failed (a WARNING says why).
--
-- What takes too long to match is left to the fan-out, which gives it more time; and what has an
-- ordering key, for the fan-out keeps the order.

create or replace function public.webhook_publish (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null,
  ordering_key text default null
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
  v_id := public.webhook_publish_tx(
    event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
    event_id, ordering_key
  );
  -- Only what is new: an id that was there already has been published.
  select e.* into v_event from webhookpub.events as e where e.id = v_id;
  if v_event.status = 'pending' and v_event.created_at >= v_at and v_event.ordering_key is null then
    perform webhookpub.fan_out_events(array[v_event]);
  end if;
  return v_id;
exception
  when sqlstate 'WH023' then
    return public.webhook_publish_best_effort_tx(
      event_type, user_id, data, agent_id, conversation_id, labels, message_id, dedup_key,
      event_id, ordering_key
    );
  when others then
    raise warning 'event % of user % is dropped: % (%)',
      event_type, user_id, sqlerrm, sqlstate;
    return null;
end;
$$;

comment on function public.webhook_publish
  (text, text, jsonb, text, text, text[], text, text, text, text) is
  'Matches and queues the deliveries at once; what has an ordering key the fan-out does, in order. Never raises: an error is a WARNING and the event is dropped.';
--! EndIncluded 1_publish/webhook_publish.sql
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
  event_id text default null,
  ordering_key text default null
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
    event_id, ordering_key
  );
exception when others then
  get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text;
  begin
    insert into webhookpub.publish_failures as f
      (event_type, user_id, data, agent_id, conversation_id, labels, message_id,
       dedup_key, event_id, ordering_key, sqlstate, message)
    values
      (event_type, user_id, data, agent_id, conversation_id, labels, message_id,
       dedup_key, event_id, ordering_key, v_sqlstate, v_message);
  exception when others then
    raise warning 'event % of user % is dropped: % (%); not even the failure could be kept: %',
      event_type, user_id, v_message, v_sqlstate, sqlerrm;
  end;
  return null;
end;
$$;

comment on function public.webhook_publish_best_effort_tx
  (text, text, jsonb, text, text, text[], text, text, text, text) is
  'Like webhook_publish_tx, but never raises: a failure becomes a row of webhookpub.publish_failures, and null is returned.';
--! EndIncluded 1_publish/webhook_publish_best_effort_tx.sql
--! Included 1_publish/webhook_publish_tx.sql
-- Publishes an event in the caller's transaction: it commits with the caller's data.
--
-- Called by  triggers and applications, before an irreversible side effect.
-- Locks      nothing that another publisher waits for, but for one that publishes the
--            very same id at this moment. Inserts one row, and nothing else.
-- Returns    the event id, also when it was there already; null when publishing is off.
-- Raises     WH001, WH002, WH003, WH004, WH005, WH006.
--
-- It runs in other people's transactions all the time, and PostgreSQL prepares every
-- expression, function call and column of a statement anew each time it is executed: that,
-- and not the insert, is what publishing costs. So there is one statement, it reads one
-- row, its condition is one CASE, which the planner leaves whole, and what event_id and
-- random_event_id say stands here once more. Only if it has written nothing is it worked out
-- why: whose the id is, if it is there, too. A look before the insert would also make
-- serializable transactions fail that have nothing to do with one another.
--
-- Events are kept for seconds, for fan-outs go by when they expire: now and then a day has 23 hours
-- in the caller's time zone, and of two days one month later may be the same.

create or replace function public.webhook_publish_tx (
  event_type text,
  user_id text,
  data jsonb,
  agent_id text default null,
  conversation_id text default null,
  labels text[] default '{}',
  message_id text default null,
  dedup_key text default null,
  event_id text default null,
  ordering_key text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- Or the insert is planned each time, which takes a third of all.
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_at constant timestamptz := clock_timestamp();
  v_id text := webhook_publish_tx.event_id;
  v_is_id boolean := true;
  v_envelope text;
  v_asleep boolean;
  v_is_known boolean;
begin
  if v_id is null then
    if coalesce(webhook_publish_tx.message_id, webhook_publish_tx.dedup_key) is null then
      v_id := webhookpub.random_event_id();
    else
      v_id := 'evt_' || encode(substr(sha256(convert_to(concat_ws(
        '|', webhook_publish_tx.message_id, webhook_publish_tx.event_type, webhook_publish_tx.dedup_key
      ), 'UTF8')), 1, 16), 'hex');
    end if;
  else
    v_is_id := webhookpub.is_event_id(v_id);
  end if;
  -- Neither the type nor the id can hold what JSON would have to escape.
  v_envelope := format(
    '{"event": "%s", "id": "%s", "created_at": "%s", "data": %s}',
    webhook_publish_tx.event_type, v_id, webhookpub.rfc3339(v_at), webhook_publish_tx.data
  );

  insert into webhookpub.events
    (id, user_id, pending_user_id, type, agent_id, conversation_id, message_id, labels,
     ordering_key, envelope, created_at, expires_at)
  select
    v_id, webhook_publish_tx.user_id, webhook_publish_tx.user_id, webhook_publish_tx.event_type,
    webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id, webhook_publish_tx.message_id,
    coalesce(webhook_publish_tx.labels, '{}'), webhook_publish_tx.ordering_key, v_envelope, v_at,
    v_at + make_interval(secs => extract(epoch from s.event_retention)::double precision)
  from webhookpub.settings as s
  where case
    when s.publish_enabled
      and webhook_publish_tx.event_type = any (s.event_types)
      and v_is_id
    then webhook_publish_tx.data @> '{}' -- only an object contains that
      and webhook_publish_tx.user_id <> ''
      and (webhook_publish_tx.ordering_key = '') is not true
      and greatest(length(webhook_publish_tx.user_id), length(webhook_publish_tx.ordering_key)) <= 200
      and coalesce(cardinality(webhook_publish_tx.labels), 0) <= 1000
      and octet_length(concat(
        v_envelope, webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
        webhook_publish_tx.message_id, array_to_string(webhook_publish_tx.labels, ',', '')
      )) <= s.max_payload_bytes
  end
  on conflict (id) do nothing
  returning webhookpub.fan_out_is_asleep() into v_asleep;
  if not v_asleep then
    return v_id;
  elsif v_asleep then
    if webhookpub.notify_is_due() then
      notify webhook_events_new;
    end if;
  else
    v_is_known := webhookpub.refuse_event(
      webhook_publish_tx.event_type, webhook_publish_tx.user_id, webhook_publish_tx.data,
      v_id, webhook_publish_tx.ordering_key, cardinality(webhook_publish_tx.labels),
      octet_length(concat(
        v_envelope, webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id,
        webhook_publish_tx.message_id, array_to_string(webhook_publish_tx.labels, ',', '')
      ))
    );
    if v_is_known is null then
      -- What spoke against it is gone since: its type has come, or publishing is on again.
      return public.webhook_publish_tx(
        webhook_publish_tx.event_type, webhook_publish_tx.user_id, webhook_publish_tx.data,
        webhook_publish_tx.agent_id, webhook_publish_tx.conversation_id, webhook_publish_tx.labels,
        webhook_publish_tx.message_id, webhook_publish_tx.dedup_key, webhook_publish_tx.event_id,
        webhook_publish_tx.ordering_key
      );
    elsif not v_is_known then
      return null;
    end if;
  end if;
  return v_id;
end;
$$;

comment on function public.webhook_publish_tx
  (text, text, jsonb, text, text, text[], text, text, text, text) is
  'Publishes an event in your transaction, or raises (WH001 to WH006). Returns its id; an id that is there already is a no-op. In PL/pgSQL: perform webhook_publish_tx(...).';
--! EndIncluded 1_publish/webhook_publish_tx.sql
--! Included 2_fan_out/data_holds.sql
-- Decides a webhook's data predicate. Whatever goes wrong in it is no match: the operator
-- keeps silent about most errors, but not about an unknown variable or a time zone, and
-- one webhook's filter must not stop the fan-out for others.
--
-- Called by  webhookpub.unmatched_clause, for webhooks that filter by data.
-- Raises     WH023 when the time for the whole event, or batch, is over.
--
-- Each predicate is cheap (webhookpub.predicate_fault), but there may be many. Its result goes by
-- the data alone, so it is immutable; the clock only ends it.

create or replace function webhookpub.data_holds (
  p_data jsonb,
  p_predicate jsonpath,
  p_until timestamptz
)
  returns boolean
  language plpgsql
  immutable
  parallel restricted
as $$
begin
  if pg_catalog.clock_timestamp() > p_until then
    raise exception using
      errcode = 'WH023',
      message = 'matching takes too long: filters by data of this user''s webhooks, on this data',
      hint = 'It is tried again with more time. Fewer filters by data, or less data, take less.';
  end if;
  begin
    return coalesce(p_data operator(pg_catalog.@@) p_predicate, false);
  exception
    when insufficient_resources then
      raise; -- The server's fault, not the filter's.
    when others then
      return false;
  end;
end;
$$;

comment on function webhookpub.data_holds (jsonb, jsonpath, timestamptz) is
  'Whether a jsonpath predicate is true of the data; unknown or an error is false. Raises WH023 after p_until.';
--! EndIncluded 2_fan_out/data_holds.sql
--! Included 2_fan_out/delivery_id.sql
-- Makes the id of a replay or a test: time first, so that ids are in the order of creation.
-- First deliveries have theirs from webhookpub.first_delivery_prefix.
--
-- Called by  steering functions, for each.
-- Returns    whd_, 12 hex digits of Unix milliseconds, 20 random ones.

create or replace function webhookpub.delivery_id (
  p_now timestamptz
)
  returns text
  language sql
  volatile
  parallel safe
return 'whd_'
  || encode(substr(int8send((date_part('epoch', p_now) * 1000)::bigint), 3), 'hex')
  || left(webhookpub.random_hex(), 20);

comment on function webhookpub.delivery_id (timestamptz) is
  'whd_ and 32 hex digits: the time in milliseconds, then random ones.';
--! EndIncluded 2_fan_out/delivery_id.sql
--! Included 2_fan_out/early_events.sql
-- Finds the events of a batch that would overtake: an earlier one with the same ordering key is
-- pending elsewhere.
--
-- Called by  webhookpub.keep_order.
-- Returns    them, and when that one is tried again if its fan-out fails; nulls when there are none.

create or replace function webhookpub.early_events (
  p_events webhookpub.events[],
  p_now timestamptz,
  out ids text[],
  out retries timestamptz[]
)
  language plpgsql
  stable
as $$
declare
  v_ids constant text[] := array(select e.id from unnest(p_events) as e);
  -- As webhook_publish_tx has it.
  v_kept constant interval := (
    select make_interval(secs => extract(epoch from s.event_retention)::double precision)
    from webhookpub.settings as s
  );
begin
  -- Users are few, and what is pending of one before the last of these events is what somebody
  -- else has just taken.
  with earlier as materialized (
    select x.user_id, x.ordering_key, min(x.created_at) as created_at,
      max(coalesce(x.retry_at, p_now)) filter (where x.last_error is not null) as retry_at
    from (
      select e.user_id, max(e.expires_at) as expires_at
      from unnest(p_events) as e
      where e.ordering_key is not null
      group by e.user_id
    ) as u
    cross join lateral (
      values
        ('-infinity', u.expires_at),
        -- Published when events were kept for longer.
        (p_now + v_kept, 'infinity')
    ) as r (after, upto)
    cross join lateral (
      select x.user_id, x.ordering_key, x.created_at, x.retry_at, x.last_error
      from webhookpub.events as x
      where x.status = 'pending'
        -- In either lane.
        and x.pending_user_id = any (array[u.user_id, chr(1) || u.user_id])
        and x.expires_at > r.after
        and x.expires_at <= r.upto
        and x.ordering_key is not null
        -- Hashed: they may be many times many.
        and x.id not in (select i.id from unnest(v_ids) as i (id))
      offset 0
    ) as x
    group by x.user_id, x.ordering_key
  )
  select array_agg(e.id), array_agg(x.retry_at) into ids, retries
  from unnest(p_events) as e
  join earlier as x on x.user_id = e.user_id and x.ordering_key = e.ordering_key
  where x.created_at < e.created_at;
end;
$$;

comment on function webhookpub.early_events (webhookpub.events[], timestamptz) is
  'The events that would overtake one with the same ordering key that is pending elsewhere, and when that is tried again if it fails.';
--! EndIncluded 2_fan_out/early_events.sql
--! Included 2_fan_out/enter_fan_out.sql
-- Lets a worker become an awake fan-out, if there is room for one more.
--
-- Called by  a worker that heard of events, on a connection of its own.
-- Locks      one of two seats, so that a stopped process can hold up only one of them,
--            and the shared lock by which publishers know that somebody is awake. Both
--            are held by the session until webhookpub.leave_fan_out, or until its client has
--            asked nothing for 10 s: one that is frozen, or lost its host, must not keep
--            publishers from waking others.
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
    perform pg_catalog.set_config('idle_session_timeout', '10s', false);
    perform pg_catalog.pg_advisory_lock_shared(2003006832, 1);
    return true;
  end if;
  return false;
end;
$$;

comment on function webhookpub.enter_fan_out () is
  'Takes a seat as an awake fan-out, for this session; false when all seats are taken.';
--! EndIncluded 2_fan_out/enter_fan_out.sql
--! Included 2_fan_out/events_by_turn.sql
-- Finds pending events of many users, when one user's may fill a batch, and locks them.
--
-- Called by  webhookpub.oldest_events.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    where they are: the oldest of each of up to p_limit users, or, if that is all users, so
--            many of each that they are p_limit, if each has as many.
--
-- The index leads from one user to the next, however many events one of them has. Whoever comes
-- next after the last one is next in the following batch: the session keeps that.

create or replace function webhookpub.events_by_turn (
  p_limit integer,
  p_but_keys text[],
  p_now timestamptz
)
  returns tid[]
  language plpgsql
  volatile
as $$
declare
  -- Before it are those of the heavy lane.
  v_after constant text := coalesce(nullif(current_setting('webhookpub.turn', true), ''), chr(2));
  v_users text[];
begin
  with recursive pending (user_id) as (
    select v_after collate "C"
    union all
    select (
      select e.pending_user_id
      from webhookpub.events as e
      where e.status = 'pending' and e.pending_user_id > p.user_id
      order by e.status, e.pending_user_id
      limit 1
    )
    from pending as p
    where p.user_id is not null
  )
  select array_agg(u.user_id) into v_users
  from (select p.user_id from pending as p offset 1 limit p_limit) as u
  where u.user_id is not null;
  perform set_config(
    'webhookpub.turn',
    case when cardinality(v_users) = p_limit then v_users[p_limit] else '' end,
    false
  );
  return array(
    select h.at
    from unnest(v_users) as u (user_id)
    cross join lateral (
      select e.ctid as at
      from webhookpub.events as e
      where e.status = 'pending'
        and e.pending_user_id = u.user_id
        and (e.retry_at is null or e.retry_at <= p_now)
        and (e.ordering_key = any (p_but_keys)) is not true
      order by e.status, e.pending_user_id, e.expires_at
      -- Whoever is at the end of a round has no more than who was before.
      limit case when v_after = chr(2) then (p_limit - 1) / cardinality(v_users) + 1 else 1 end
      for update skip locked
    ) as h
  );
end;
$$;

comment on function webhookpub.events_by_turn (integer, text[], timestamptz) is
  'Locks the oldest pending events of the users whose turn it is, but those with these ordering keys; returns where they are.';
--! EndIncluded 2_fan_out/events_by_turn.sql
--! Included 2_fan_out/fail_events.sql
-- Keeps the error of events that could not be fanned out.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has meanwhile.
--
-- One that failed by itself waits, longer each time. Of several nobody knows whose fault it
-- was: they are tried again at once, each by itself, in the heavy lane.

create or replace function webhookpub.fail_events (
  p_ids text[],
  p_error text
)
  returns void
  language sql
  volatile
as $$
  update webhookpub.events as e
  set
    attempts = e.attempts + 1,
    pending_user_id = chr(1) || e.user_id,
    last_error = p_error,
    retry_at = case
      when cardinality(p_ids) = 1 then clock_timestamp()
        + least(interval '1 second' * 2 ^ least(e.attempts, 20), interval '1 hour')
    end
  from (
    select e.id
    from webhookpub.events as e
    where e.id = any (p_ids) and e.status = 'pending'
    for update skip locked
  ) as f
  where e.id = f.id;
$$;

comment on function webhookpub.fail_events (text[], text) is
  'Keeps the error of pending events; one alone then waits, for a second and twice as long each time, up to an hour.';
--! EndIncluded 2_fan_out/fail_events.sql
--! Included 2_fan_out/fan_out.sql
-- One tick: turns pending events into deliveries, of the heavy lane one, and adds a job for each
-- webhook with work.
--
-- Called by  psql, or whoever has no worker at hand that would deliver them.
-- Locks      the events it takes, skipping those that another fan-out has.
-- Returns    how many events were fanned out, and how many deliveries that made.

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
as $$
declare
  v_batch record;
  v_heavy record;
begin
  v_batch := webhookpub.fan_out_batch(p_limit);
  event_count := v_batch.event_count;
  delivery_count := v_batch.delivery_count;
  if v_batch.heavy_waits and event_count < p_limit and not webhookpub.time_is_up(0.5) then
    v_heavy := webhookpub.fan_out_batch(p_heavy => true);
    event_count := event_count + v_heavy.event_count;
    delivery_count := delivery_count + v_heavy.delivery_count;
    v_batch.webhook_ids := v_batch.webhook_ids || v_heavy.webhook_ids;
  end if;
  if v_batch.webhook_ids is not null then
    perform webhookpub.add_deliver_jobs(v_batch.webhook_ids);
  end if;
  return next;
end;
$$;

comment on function webhookpub.fan_out (integer) is
  'Turns up to p_limit pending events into deliveries, of which it makes no more than a few thousand at once unless one event goes to more; returns how many of each. Safe to run any number of times at once.';
--! EndIncluded 2_fan_out/fan_out.sql
--! Included 2_fan_out/fan_out_batch.sql
-- Turns pending events into deliveries, for a worker that goes on to deliver them itself.
--
-- Called by  a worker, on a connection for each of the two lanes; webhookpub.fan_out.
-- Locks      the events it takes, skipping those that another fan-out has.
-- Returns    how many events were fanned out, how many deliveries that made, the webhooks for
--            which some wait, each with its user, and the deliveries that are leased to whoever
--            called, for their first attempt: it can send p_room at once, and if that is little,
--            what; and, of the ordinary lane, whether more is pending than went into the batch,
--            whether the heavy one has something to do, and whether to look again soon, for
--            somebody publishes without a NOTIFY (webhookpub.others_publish), or an event is left
--            out that may go in a moment.
--
-- It adds no jobs: those take longer than all the rest, and whoever called is quicker. What
-- it does not come to gets a job by the next look at what is due (webhookpub.wake).
--
-- A batch is all or nothing. If it fails, its events go one by one; a culprit keeps its
-- error and waits, longer each time, while the others go on. It is never given up. If its time is
-- up (statement_timeout), nothing more is begun, and its events go one by one in the calls that
-- follow. Whoever cancels it before ends the call.

create or replace function webhookpub.fan_out_batch (
  p_limit integer default 500,
  p_room integer default 0,
  p_heavy boolean default false,
  out event_count integer,
  out delivery_count integer,
  out webhook_ids text[],
  out user_ids text[],
  out leased_ids text[],
  out leased_webhook_ids text[],
  out leased_user_ids text[],
  out leased_at timestamptz,
  out requests json,
  out more boolean,
  out heavy_waits boolean,
  out look_again boolean
)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_events webhookpub.events[];
  v_done record;
begin
  event_count := 0;
  delivery_count := 0;
  more := false;
  look_again := not p_heavy and webhookpub.others_publish();
  begin
    -- Locked and written in one subtransaction: two would leave both of them in the row,
    -- and the index could not forget such a row until the next vacuum.
    if p_heavy then
      v_events := webhookpub.next_heavy();
    else
      select n.events, n.more, look_again or n.left_out into v_events, more, look_again
      from webhookpub.next_events(p_limit) as n;
    end if;
    if v_events is not null then
      v_done := webhookpub.fan_out_events(v_events, p_room);
      webhook_ids := v_done.webhook_ids;
      leased_ids := v_done.leased_ids;
      leased_webhook_ids := v_done.leased_webhook_ids;
      leased_at := v_done.leased_at;
      event_count := cardinality(v_events);
      delivery_count := v_done.delivery_count;
    end if;
  exception
    when query_canceled then
      if v_events is null or not webhookpub.time_is_up() then
        raise;
      end if;
      perform webhookpub.fail_events(
        array(select e.id from unnest(v_events) as e), format('%s (%s)', sqlerrm, sqlstate)
      );
    when others then
      if v_events is null then
        raise; -- No event's fault: none was taken.
      end if;
      v_done := webhookpub.fan_out_singly(v_events, format('%s (%s)', sqlerrm, sqlstate));
      webhook_ids := v_done.webhook_ids;
      more := true; -- What it has not come to.
      event_count := v_done.event_count;
      delivery_count := v_done.delivery_count;
  end;
  if not p_heavy then
    heavy_waits := webhookpub.heavy_waits();
  elsif v_events is not null then
    -- Here, for an error takes back what was set before it.
    perform set_config('webhookpub.heavy_turn', v_events[1].pending_user_id, false);
  end if;
  user_ids := webhookpub.users_of(webhook_ids);
  leased_user_ids := webhookpub.users_of(leased_webhook_ids);
  requests := webhookpub.requests_at_birth(leased_ids, v_events);
end;
$$;

comment on function webhookpub.fan_out_batch (integer, integer, boolean) is
  'Turns up to p_limit pending events, or one of the heavy lane, into deliveries, without jobs, and leases up to p_room of them; returns how many of each, for which webhooks of which users, and what is leased.';
--! EndIncluded 2_fan_out/fan_out_batch.sql
--! Included 2_fan_out/fan_out_events.sql
-- Fans a batch out: matches its events, inserts their first deliveries, moves their bytes to
-- where they are kept, and marks them processed or no_match.
--
-- Called by  webhookpub.fan_out_batch, public.webhook_publish.
-- Locks      the events, which the caller has locked; a delivery that is there already is
--            left alone.
-- Returns    how many deliveries are new, the webhooks for which some wait, and those that are
--            leased already (webhookpub.queue_deliveries).
-- Raises     WH023 when matching takes too long.
--
-- It goes by a plan that is kept: for a few events planning takes longer than the rest, and for many
-- they would all be copied into the plan. It may have been made when tables were small: so it looks up
-- row by row, and never joins a whole table.

create or replace function webhookpub.fan_out_events (
  p_events webhookpub.events[],
  p_room integer default 0,
  out delivery_count bigint,
  out webhook_ids text[],
  out leased_ids text[],
  out leased_webhook_ids text[],
  out leased_at timestamptz
)
  language plpgsql
  volatile
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_created record;
  v_keys text[];
  v_turns timestamptz[];
  -- To match in: two seconds, and for an event alone twice as much with each try.
  v_until constant timestamptz := v_now + interval '2 seconds' * case
    when cardinality(p_events) = 1 then 2 ^ least(p_events[1].attempts, 4)
    else 1
  end;
begin
  with event_type as materialized (
    select t.name, webhookpub.type_patterns(t.name) as patterns
    from (select distinct e.type as name from unnest(p_events) as e) as t
  ),
  matched as materialized (
    select
      e.id, e.type, e.message_id, e.created_at, i.prefix, w.ids, w.all_attempts,
      -- Only such a one may have deliveries already: somebody has set it back to pending.
      e.envelope is null as is_old
    from unnest(p_events) as e
    cross join lateral (
      select webhookpub.first_delivery_prefix(e.id, e.created_at) as prefix offset 0
    ) as i
    join event_type as t on t.name = e.type
    -- Parsed once an event, and only for users with a webhook that filters by it.
    left join lateral (
      select coalesce(e.envelope, webhookpub.stored_envelope(e.id, e.created_at))::jsonb -> 'data'
        as data
      where exists (
        select
        from webhookpub.webhooks as w
        where w.user_id = e.user_id and w.enabled and w.filter_data is not null
      )
      offset 0
    ) as d on true
    -- Event by event, by one look into the index.
    cross join lateral (
      select
        array_agg(w.id order by w.id) as ids,
        array_agg(cardinality(w.retry_schedule) + 1 order by w.id) as all_attempts
      from (
        select w.id, w.retry_schedule
        from webhookpub.webhooks as w
        where w.user_id = e.user_id
          and webhookpub.unmatched_clause(w, e, t.patterns, d.data, v_until) is null
        offset 0 -- Or the order may lead through all webhooks.
      ) as w
    ) as w
  ),
  created as (
    insert into webhookpub.delivery_history as h
      (id, webhook_id, event_id, event_type, event_created_at, message_id, max_attempts,
       created_at)
    select
      i.delivery_id, m.webhook_id, m.id, m.type, m.created_at, m.message_id, m.max_attempts, v_now
    from (
      -- Not in "from", where each event would have a table made for its webhooks.
      select m.*, unnest(m.ids) as webhook_id, unnest(m.all_attempts) as max_attempts
      from matched as m
    ) as m
    cross join lateral (select m.prefix || substr(m.webhook_id, 4, 12) as delivery_id) as i
    -- A look for each that may be there, which is no join; "on conflict" would write a second
    -- record for each row.
    where case
      when m.is_old
        then (select h.id from webhookpub.delivery_history as h where h.id = i.delivery_id) is null
      else true
    end
    order by i.delivery_id
    returning h.id, h.webhook_id, h.event_id
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
      status = (case when m.ids is null then 'no_match' else 'processed' end)::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.ids, '{}'),
      pending_user_id = null,
      envelope = null,
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from matched as m
    where e.id = m.id
  )
  select
    array_agg(c.id) as ids, array_agg(c.webhook_id) as webhook_ids, array_agg(c.event_id) as event_ids
  into v_created
  from created as c;
  delivery_count := coalesce(cardinality(v_created.ids), 0);
  if delivery_count > 0 then
    leased_at := v_now;
    if exists (select from unnest(p_events) as e where e.ordering_key is not null) then
      select t.ordering_keys, t.turns into v_keys, v_turns
      from webhookpub.take_turns(
        v_created.ids, v_created.webhook_ids, v_created.event_ids, p_events
      ) as t;
    end if;
    select q.webhook_ids, q.leased_ids, q.leased_webhook_ids
    into webhook_ids, leased_ids, leased_webhook_ids
    from webhookpub.queue_deliveries(
      v_created.ids, v_created.webhook_ids, v_keys, v_turns, p_room, v_now
    ) as q;
  end if;
end;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[], integer) is
  'Matches events against their users'' webhooks, inserts the first deliveries and marks the events processed or no_match. Raises WH023 when that takes too long.';
--! EndIncluded 2_fan_out/fan_out_events.sql
--! Included 2_fan_out/fan_out_singly.sql
-- Fans out the events of a batch that failed, one by one, until some seconds are over: what is
-- left then is pending as before.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has meanwhile.
-- Returns    how many were fanned out, how many deliveries that made, and the webhooks that
--            they are for.

create or replace function webhookpub.fan_out_singly (
  p_events webhookpub.events[],
  p_why text,
  out event_count integer,
  out delivery_count integer,
  out webhook_ids text[]
)
  language plpgsql
  volatile
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '3 seconds';
  v_id text;
  v_events webhookpub.events[];
  v_done record;
begin
  event_count := 0;
  delivery_count := 0;
  if cardinality(p_events) > 1 then
    -- A culprit keeps its error. If there is none, nothing else tells of this one.
    raise warning 'a batch of % events goes one by one: %', cardinality(p_events), p_why;
  end if;
  foreach v_id in array array(select e.id from unnest(p_events) as e) loop
    begin
      select array_agg(p.event) into v_events
      from (
        select e as event
        from webhookpub.events as e
        where e.id = v_id and e.status = 'pending'
        for update skip locked
      ) as p;
      if v_events[1].ordering_key is not null then
        v_events := webhookpub.keep_order(v_events);
      end if;
      continue when v_events is null;
      v_done := webhookpub.fan_out_events(v_events);
      webhook_ids := webhook_ids || v_done.webhook_ids;
      event_count := event_count + 1;
      delivery_count := delivery_count + v_done.delivery_count;
    exception
      when query_canceled then
        if not webhookpub.time_is_up() then
          raise;
        end if;
        perform webhookpub.fail_events(array[v_id], format('%s (%s)', sqlerrm, sqlstate));
        exit;
      when others then
        perform webhookpub.fail_events(array[v_id], format('%s (%s)', sqlerrm, sqlstate));
    end;
    exit when clock_timestamp() > v_until or webhookpub.time_is_up(0.5);
  end loop;
end;
$$;

comment on function webhookpub.fan_out_singly (webhookpub.events[], text) is
  'Fans events out one by one; a culprit keeps its error and waits, while the others go on.';
--! EndIncluded 2_fan_out/fan_out_singly.sql
--! Included 5_retry/next_attempt_at.sql
-- Says when a delivery is due again after a failed attempt.
--
-- Called by  webhookpub.judge_answers; whether there is a next attempt is decided there.
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
--! Included 8_steer/skip.sql
-- Cancels a pending delivery, so that the next with its ordering key may go.
--
-- Called by  psql, applications.
-- Locks      the delivery, waiting for what is being recorded or leased.
-- Raises     WH020, WH022.
--
-- If its request is under way, it still arrives, and its attempt is kept; it changes nothing more.

create or replace function webhookpub.skip (
  p_delivery_id text
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook_id text;
  v_status text;
begin
  select q.webhook_id into v_webhook_id
  from webhookpub.queue as q
  where q.delivery_id = p_delivery_id
  for update;
  if not found then
    select h.status into v_status
    from webhookpub.delivery_history as h
    where h.id = p_delivery_id;
    if not found then
      raise exception using
        errcode = 'WH020',
        message = format(
          'no such delivery: %s', coalesce(quote_literal(left(p_delivery_id, 100)), 'null')
        ),
        hint = 'List them with: select id, webhook_id, status from webhookpub.deliveries;';
    end if;
    raise exception using
      errcode = 'WH022',
      message = format('delivery %L has ended: it is %s', p_delivery_id, v_status),
      hint = 'Only a pending delivery can be skipped.';
  end if;
  perform webhookpub.end_deliveries(array[p_delivery_id], 'cancelled');
  perform webhookpub.add_deliver_jobs(array[v_webhook_id]);
end;
$$;

comment on function webhookpub.skip (text) is
  'Cancels a pending delivery; if it holds up others with its ordering key, the next goes. Raises WH020, WH022.';
--! EndIncluded 8_steer/skip.sql
--! Included 7_inspect/deliveries.sql
-- Every delivery: one event on its way to one webhook.
--
-- Called by  psql, applications: of one webhook, one event, one status; webhookpub.delivery_log
--            has them newest first.
--
-- In two halves, so that what is pending is found by way of the queue, and what has ended
-- without looking there.

create or replace view webhookpub.deliveries
  with (security_invoker = true)
as
  select
    h.id, q.webhook_id, h.event_id, h.event_type, h.event_created_at, h.message_id, h.replay_id,
    'pending' as status, q.leased, q.attempt as attempts, q.lost, h.max_attempts,
    case when q.turn_at is null then q.due_at end as next_attempt_at,
    q.last_status_code, q.last_error, q.last_attempt_at,
    h.delivered_at, h.created_at,
    h.created_at + (select s.delivery_retention from webhookpub.settings as s) as expires_at
  from webhookpub.queue as q
  join webhookpub.delivery_history as h
    on h.id = q.delivery_id and h.webhook_id = q.webhook_id
  union all
  select
    h.id, h.webhook_id, h.event_id, h.event_type, h.event_created_at, h.message_id, h.replay_id,
    h.status, false, h.attempts, h.lost, h.max_attempts,
    null::timestamptz, h.last_status_code, h.last_error, h.last_attempt_at,
    h.delivered_at, h.created_at,
    h.created_at + (select s.delivery_retention from webhookpub.settings as s)
  from webhookpub.delivery_history as h
  where h.status <> 'pending';

comment on view webhookpub.deliveries is
  'Every delivery, first, replay or test: what and for whom, and how it stands.';
comment on column webhookpub.deliveries.event_created_at is
  'The partition key of its envelope.';
comment on column webhookpub.deliveries.replay_id is
  'Null for the first delivery; rpl_… names the call that replayed it, test_… a test.';
comment on column webhookpub.deliveries.status is
  'pending; then delivered, failed (no attempt left, or gone) or cancelled (webhook deleted, or skip).';
comment on column webhookpub.deliveries.leased is
  'A worker has it until next_attempt_at; then it is due again.';
comment on column webhookpub.deliveries.attempts is
  'Attempts begun; the number of the last one, by which its answer is fenced.';
comment on column webhookpub.deliveries.lost is
  'Attempts that had no answer, for the worker was lost or gave it back; they do not count against max_attempts.';
comment on column webhookpub.deliveries.next_attempt_at is
  'When it is due, or, while it is leased, when the lease ends; null unless it is pending, and while it waits for its turn.';
comment on column webhookpub.deliveries.expires_at is
  'When upkeep may remove it, unless it is pending.';
--! EndIncluded 7_inspect/deliveries.sql
--! Included 2_fan_out/first_delivery_prefix.sql
-- Makes what the ids of an event's first deliveries begin with; the first half of the webhook's
-- own random digits is the rest. So there is one id for an event and a webhook: the primary key
-- is the backstop against doubles. It begins with the time, so inserts go to the index's right
-- edge and expiry walks in order.
--
-- Called by  webhookpub.fan_out_events, per row: no pinned path, so that it is inlined, which it
--            is only while it claims to be no more constant than what it calls (convert_to).
-- Returns    whd_, 12 hex digits of Unix milliseconds, 12 of the SHA-256 of the event's id. Two
--            deliveries of a webhook whose events are of one millisecond differ by 48 bits.

create or replace function webhookpub.first_delivery_prefix (
  p_event_id text,
  p_event_created_at timestamptz
)
  returns text
  language sql
  stable
  parallel safe
return 'whd_' || encode(
  substr(int8send((date_part('epoch', p_event_created_at) * 1000)::bigint), 3)
    || substr(sha256(convert_to(p_event_id, 'UTF8')), 1, 6),
  'hex'
);

comment on function webhookpub.first_delivery_prefix (text, timestamptz) is
  'What the ids of an event''s first deliveries begin with: its time and a hash of its id.';
--! EndIncluded 2_fan_out/first_delivery_prefix.sql
--! Included 2_fan_out/fit_batch.sql
-- Chooses from events that are locked as many as one statement can do in a moment, and moves those
-- that are heavy to their lane, where each goes alone.
--
-- Called by  webhookpub.next_events.
-- Returns    where those are that fit, no more than p_limit; null if all are heavy.
--
-- An event weighs as much as it may become: 1 for each webhook of its user, and 1 for each 16 KiB
-- to be read, and again for each webhook that looks into them. Users take turns until 2,000 are
-- together. What weighs more than 1,000 is heavy.

create or replace function webhookpub.fit_batch (
  p_at tid[],
  p_limit integer
)
  returns tid[]
  language plpgsql
  volatile
as $$
declare
  v_fit record;
begin
  -- Windows only sort. A join of events with users would be a nested loop where hashing is off.
  select
    array_agg(t.at)
      filter (where t.weight <= 1000 and t.so_far <= 2000 and t.place <= p_limit) as light,
    array_agg(t.at) filter (where t.weight > 1000) as heavy
  into v_fit
  from (
    select
      w.at, w.weight, sum(w.weight) filter (where w.weight <= 1000) over by_turn as so_far,
      count(*) filter (where w.weight <= 1000) over by_turn as place
    from (
      select e.*, max(w.count) over u + e.chunks * (1 + max(w.readers) over u) as weight
      from (
        select
          e.ctid as at, e.id, e.user_id, e.expires_at,
          coalesce(octet_length(e.envelope), 0) / 16384 as chunks,
          row_number() over (partition by e.user_id order by e.expires_at, e.id) as turn
        from webhookpub.events as e
        where e.ctid = any (p_at)
      ) as e
      cross join lateral (
        select count(*) as count, count(w.filter_data) as readers
        from (
          select w.filter_data
          from webhookpub.webhooks as w
          where w.user_id = e.user_id and w.enabled and e.turn = 1 -- Counted once a user.
          limit 1001 -- More make no difference.
        ) as w
      ) as w
      window u as (partition by e.user_id)
    ) as w
    window by_turn as (order by w.turn, w.expires_at, w.id rows unbounded preceding)
  ) as t;
  if v_fit.heavy is not null then
    update webhookpub.events as e
    set pending_user_id = chr(1) || e.user_id
    where e.ctid = any (v_fit.heavy);
  end if;
  return v_fit.light;
end;
$$;

comment on function webhookpub.fit_batch (tid[], integer) is
  'Which of these events go into one batch, by what each may become and by turns of users; moves heavy ones to their lane.';
--! EndIncluded 2_fan_out/fit_batch.sql
--! Included 2_fan_out/heavy_waits.sql
-- Says whether the heavy lane has something to do.
--
-- Called by  webhookpub.fan_out_batch, at the end of each batch of the ordinary lane.

create or replace function webhookpub.heavy_waits ()
  returns boolean
  language plpgsql
  volatile
as $$
begin
  return exists (
    select
    from webhookpub.events as e
    where e.status = 'pending'
      and e.pending_user_id < chr(2)
      and (e.retry_at is null or e.retry_at <= clock_timestamp())
  );
end;
$$;

comment on function webhookpub.heavy_waits () is
  'Whether an event waits in the heavy lane that could be fanned out now.';
--! EndIncluded 2_fan_out/heavy_waits.sql
--! Included 2_fan_out/hold_tails.sql
-- Locks what new deliveries of ordered webhooks come behind: the last in the queue with their
-- ordering key. Once it is locked nobody can end it, and overlook them; nor later, by a snapshot
-- from before, for it is written anew: that is an error of theirs (40001).
--
-- Called by  webhookpub.keep_order.
-- Locks      those deliveries, skipping what somebody else holds.
-- Returns    the events of which somebody else holds one.

create or replace function webhookpub.hold_tails (
  p_events webhookpub.events[]
)
  returns text[]
  language sql
  volatile
as $$
  -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
  with tail as materialized (
    select k.user_id, k.ordering_key, t.delivery_id, o.delivery_id as locked_id
    from (
      select distinct e.user_id, e.ordering_key
      from unnest(p_events) as e
      where e.ordering_key is not null
    ) as k
    cross join lateral (
      select w.id from webhookpub.webhooks as w where w.user_id = k.user_id and w.ordered offset 0
    ) as w
    left join lateral (
      select q.delivery_id
      from webhookpub.queue as q
      where q.webhook_id = w.id and q.ordering_key = k.ordering_key and q.turn_at is not null
      order by q.turn_at desc, q.delivery_id desc
      limit 1
    ) as l on true
    left join lateral (
      select q.delivery_id
      from webhookpub.queue as q
      where q.webhook_id = w.id and q.ordering_key = k.ordering_key and q.turn_at is null
        and l.delivery_id is null
      offset 0
    ) as h on true
    cross join lateral (select coalesce(l.delivery_id, h.delivery_id) as delivery_id) as t
    left join lateral (
      select q.delivery_id
      from webhookpub.queue as q
      where q.delivery_id = t.delivery_id
      for update skip locked
      offset 0
    ) as o on true
  ),
  written as (
    update webhookpub.queue as q
    set attempt = q.attempt
    where q.delivery_id = any (array(select t.locked_id from tail as t))
  )
  select array_agg(e.id)
  from unnest(p_events) as e
  where exists (
    select from tail as t
    where t.user_id = e.user_id and t.ordering_key = e.ordering_key
      and t.delivery_id is distinct from t.locked_id
  );
$$;

comment on function webhookpub.hold_tails (webhookpub.events[]) is
  'Locks the last delivery in the queue of each ordering key and ordered webhook of these events; returns the events of which that failed.';
--! EndIncluded 2_fan_out/hold_tails.sql
--! Included 2_fan_out/keep_order.sql
-- Leaves out of a batch what would overtake: events with an ordering key, while an earlier one with
-- the same key is pending elsewhere, or somebody is just ending what they would wait for. They
-- stay pending, for the next batch.
--
-- Called by  webhookpub.next_events, webhookpub.next_heavy, webhookpub.fan_out_singly.
-- Locks      the last delivery in the queue of each key and ordered webhook, until the batch
--            commits: behind it, what is new can't be overlooked by whoever ends it.
-- Returns    the others, or null.
--
-- Those behind one whose fan-out fails are tried with it again, but within a minute.

create or replace function webhookpub.keep_order (
  p_events webhookpub.events[]
)
  returns webhookpub.events[]
  language plpgsql
  volatile
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_early record;
  v_held text[];
begin
  v_early := webhookpub.early_events(p_events, v_now);
  if exists (select from unnest(v_early.retries) as r (retry_at) where r.retry_at is not null) then
    -- They make room for others, and for so long that no fan-out is busy with them alone.
    update webhookpub.events as e
    set retry_at = greatest(
      v_now + interval '1 second', least(r.retry_at, v_now + interval '1 minute')
    )
    from unnest(v_early.ids, v_early.retries) as r (id, retry_at)
    where e.id = r.id and r.retry_at is not null and e.status = 'pending';
  end if;

  v_held := webhookpub.hold_tails(array(
    select e from unnest(p_events) as e where e.id = any (v_early.ids) is not true
  ));
  return (
    select array_agg(e)
    from unnest(p_events) as e
    where e.id = any (v_early.ids) is not true and e.id = any (v_held) is not true
  );
end;
$$;

comment on function webhookpub.keep_order (webhookpub.events[]) is
  'Those of these events that overtake none with the same ordering key; what they come behind is locked.';
--! EndIncluded 2_fan_out/keep_order.sql
--! Included 2_fan_out/leases_at_birth.sql
-- Says which new deliveries are born leased, so that no lease need be asked for: what its own
-- process can send at once, of webhooks that are well and have nothing else waiting, a few each, as
-- far as they have room. What has to wait for its turn is not.
--
-- Called by  webhookpub.queue_deliveries.
-- Locks      those webhooks' leases, until the batch commits; what somebody else leases for at
--            this moment is not born leased.
-- Returns    for each delivery until when it is leased, or null; null when none is.

create or replace function webhookpub.leases_at_birth (
  p_webhook_ids text[],
  p_turns timestamptz[],
  p_room integer,
  p_now timestamptz
)
  returns timestamptz[]
  language plpgsql
  volatile
as $$
declare
  -- Of each webhook, so that one that hangs does not hold more.
  v_most constant integer := 4;
  v_free record;
  v_lease record;
  v_leases timestamptz[];
begin
  if p_room <= 0 or not webhookpub.delivery_is_on() then
    return null;
  end if;
  -- A statement of its own: the next one must see what the last holder did.
  select array_agg(f.webhook_id) as webhook_ids, array_agg(f.n) as places into v_free
  from (
    select h.webhook_id, h.n
    from (
      select
        p.webhook_id, p.n,
        row_number() over (partition by p.webhook_id order by p.n) as place,
        dense_rank() over (order by p.webhook_id) as webhook
      from unnest(p_webhook_ids, p_turns) with ordinality as p (webhook_id, turn_at, n)
      where p.turn_at is null
    ) as h
    where h.place <= v_most and h.webhook <= p_room
    offset 0 -- Locked is only what is left.
  ) as f
  where pg_catalog.pg_try_advisory_xact_lock(2003006833, pg_catalog.hashtext(f.webhook_id));

  for v_lease in
    select i.n, r.leased_until
    from (
      select f.webhook_id, array_agg(f.n order by f.n) as places
      from unnest(v_free.webhook_ids, v_free.places) as f (webhook_id, n)
      group by f.webhook_id
    ) as g
    cross join lateral webhookpub.room_at_birth(g.webhook_id, v_most, p_now) as r
    cross join lateral unnest(g.places[1 : r.room]) as i (n)
    limit p_room
  loop
    v_leases := coalesce(
      v_leases, array_fill(null::timestamptz, array[cardinality(p_webhook_ids)])
    );
    v_leases[v_lease.n] := v_lease.leased_until;
  end loop;
  return v_leases;
end;
$$;

comment on function webhookpub.leases_at_birth (text[], timestamptz[], integer, timestamptz) is
  'Until when each of these new deliveries is leased by its fan-out, up to p_room of them; null: not.';
--! EndIncluded 2_fan_out/leases_at_birth.sql
--! Included 2_fan_out/leave_fan_out.sql
-- Gives the seat of an awake fan-out back.
--
-- Called by  an awake fan-out, on the connection that entered.

create or replace function webhookpub.leave_fan_out ()
  returns void
  language sql
  volatile
as $$
  select pg_catalog.pg_advisory_unlock_all(),
    pg_catalog.set_config('idle_session_timeout', '0', false);
$$;

comment on function webhookpub.leave_fan_out () is
  'Gives back what webhookpub.enter_fan_out took.';
--! EndIncluded 2_fan_out/leave_fan_out.sql
--! Included 2_fan_out/next_events.sql
-- Picks the pending events that a batch takes, and locks them. While more wait than a batch has
-- room for, users take turns: each gets one in before anybody gets a second. What is heavy goes
-- into its own lane, where it holds up nobody: it is not met here again. None overtakes an earlier
-- one with the same ordering key.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    them, or null; whether more are pending that did not fit; and whether some were left out
--            that may go in a moment.
--
-- Where most of them would overtake, others are looked for, with other keys: however many wait
-- behind one, they are in nobody's way.

create or replace function webhookpub.next_events (
  p_limit integer,
  out events webhookpub.events[],
  out more boolean,
  out left_out boolean
)
  language plpgsql
  volatile
  -- By index, and few, whatever stale statistics say.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_at tid[];
  v_fit tid[];
  v_found webhookpub.events[];
  v_kept webhookpub.events[];
  v_left integer;
  v_keys text[] := '{}';
begin
  more := false;
  left_out := false;
  for i in 1 .. 4 loop
    v_at := webhookpub.oldest_events(p_limit, v_keys, v_now);
    exit when v_at is null;
    v_fit := webhookpub.fit_batch(v_at, p_limit);
    more := more or cardinality(v_at) >= p_limit
      or coalesce(cardinality(v_fit), 0) < cardinality(v_at);
    select array_agg(l.event) into v_found
    from unnest(v_fit) as a (at)
    -- One by one; "offset 0" keeps the planner from joining.
    cross join lateral (
      select e as event from webhookpub.events as e where e.ctid = a.at offset 0
    ) as l;
    exit when v_found is null;
    v_kept := v_found;
    if exists (select from unnest(v_found) as e where e.ordering_key is not null) then
      v_kept := webhookpub.keep_order(v_found);
    end if;
    -- What was kept before is found again: it is locked by this very transaction.
    events := case when events is null then v_kept else array(
      select distinct on (e.id) e from unnest(events || v_kept) as e
    ) end;
    v_left := cardinality(v_found) - coalesce(cardinality(v_kept), 0);
    left_out := left_out or v_left > 0;
    exit when v_left * 2 <= cardinality(v_found);
    v_keys := v_keys || array(
      select distinct e.ordering_key
      from unnest(v_found) as e
      where e.ordering_key is not null
        and e.id <> all (array(select k.id from unnest(v_kept) as k))
    );
  end loop;
  -- While none of them may go, to ask at once again would be in vain.
  more := more and (events is not null or not left_out);
end;
$$;

comment on function webhookpub.next_events (integer) is
  'Locks and returns up to p_limit pending events, of all users in turn, and not more than one statement can do in a moment.';
--! EndIncluded 2_fan_out/next_events.sql
--! Included 2_fan_out/next_heavy.sql
-- Picks the next event of the heavy lane, and locks it: the oldest of the user whose turn it is.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the event; those that another fan-out has are skipped.
-- Returns    it, or null; also when it would overtake an earlier one with its ordering key.
--
-- Whoever comes next after the last one is next; the session keeps that.

create or replace function webhookpub.next_heavy (
  out events webhookpub.events[]
)
  language plpgsql
  volatile
  -- By index, whatever stale statistics say.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_after text := coalesce(current_setting('webhookpub.heavy_turn', true), '');
  v_event webhookpub.events;
begin
  loop
    select e.* into v_event
    from webhookpub.events as e
    where e.status = 'pending'
      and e.pending_user_id > v_after
      and e.pending_user_id < chr(2)
      and (e.retry_at is null or e.retry_at <= v_now)
    order by e.status, e.pending_user_id, e.expires_at
    limit 1
    for update skip locked;
    exit when found or v_after = '';
    v_after := '';
  end loop;
  if not found then
    return;
  end if;
  events := array[v_event];
  if v_event.ordering_key is not null then
    events := webhookpub.keep_order(events);
    if events is null then
      -- It makes room for others until what is before it has gone.
      update webhookpub.events as e
      set retry_at = greatest(e.retry_at, clock_timestamp() + interval '100 milliseconds')
      where e.id = v_event.id;
    end if;
  end if;
end;
$$;

comment on function webhookpub.next_heavy () is
  'Locks and returns the next event of the heavy lane, of all users in turn; null if there is none.';
--! EndIncluded 2_fan_out/next_heavy.sql
--! Included 2_fan_out/oldest_events.sql
-- Finds pending events, of each user the oldest first, and locks them; while more wait than that, of
-- all users in turn, and one user's after another's only where users in turn have too few.
--
-- Called by  webhookpub.next_events.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    where they are, or null; p_limit or more, if so many wait.

create or replace function webhookpub.oldest_events (
  p_limit integer,
  p_but_keys text[],
  p_now timestamptz
)
  returns tid[]
  language plpgsql
  volatile
as $$
declare
  v_at tid[];
begin
  if p_limit > 1 and exists (
    select
    from webhookpub.events as e
    where e.status = 'pending' and e.pending_user_id >= chr(2)
      and (e.retry_at is null or e.retry_at <= p_now)
      and (e.ordering_key = any (p_but_keys)) is not true
    order by e.status, e.pending_user_id, e.expires_at
    offset p_limit - 1
  ) then
    v_at := webhookpub.events_by_turn(p_limit, p_but_keys, p_now);
  end if;
  if cardinality(v_at) >= p_limit then
    return v_at;
  end if;
  -- Where they are: with the rows, PostgreSQL would read all their bytes.
  select v_at || array_agg(p.at) into v_at
  from (
    select u.at
    from (
      select e.ctid as at
      from webhookpub.events as e
      where e.status = 'pending' and e.pending_user_id >= chr(2)
        and (e.retry_at is null or e.retry_at <= p_now)
        and (e.ordering_key = any (p_but_keys)) is not true
      order by e.status, e.pending_user_id, e.expires_at
      limit p_limit
      for update skip locked
    ) as u
    union all
    -- Those that somebody has set back to pending.
    select n.at
    from (
      select e.ctid as at
      from webhookpub.events as e
      where e.status = 'pending' and e.pending_user_id is null
        and (e.ordering_key = any (p_but_keys)) is not true
      order by e.status, e.pending_user_id, e.expires_at
      limit p_limit
      for update skip locked
    ) as n
    limit greatest(p_limit, 0)
  ) as p;
  return v_at;
end;
$$;

comment on function webhookpub.oldest_events (integer, text[], timestamptz) is
  'Locks the oldest pending events, but those with these ordering keys, of all users in turn; returns where they are.';
--! EndIncluded 2_fan_out/oldest_events.sql
--! Included 2_fan_out/queue_deliveries.sql
-- Puts the first deliveries of a batch into the queue. Some are born leased
-- (webhookpub.leases_at_birth). What has to wait for its turn is never due.
--
-- Called by  webhookpub.fan_out_events, which has made their history, in the order of their ids:
--            so they go into the index one after the other.
-- Returns    what is leased, and the webhooks that have something waiting.

create or replace function webhookpub.queue_deliveries (
  p_delivery_ids text[],
  p_webhook_ids text[],
  p_ordering_keys text[],
  p_turns timestamptz[],
  p_room integer,
  p_now timestamptz,
  out leased_ids text[],
  out leased_webhook_ids text[],
  out webhook_ids text[]
)
  language plpgsql
  volatile
as $$
declare
  v_leases constant timestamptz[] :=
    webhookpub.leases_at_birth(p_webhook_ids, p_turns, p_room, p_now);
begin
  with queued as (
    insert into webhookpub.queue
      (delivery_id, webhook_id, ordering_key, turn_at, due_at, leased, attempt, last_attempt_at)
    select
      p.id, p.webhook_id, p.ordering_key, p.turn_at,
      coalesce(p.leased_until, case when p.turn_at is null then p_now else 'infinity' end),
      p.leased_until is not null,
      (p.leased_until is not null)::integer,
      case when p.leased_until is not null then p_now end
    from unnest(p_delivery_ids, p_webhook_ids, p_ordering_keys, p_turns, v_leases)
      as p (id, webhook_id, ordering_key, turn_at, leased_until)
  )
  select
    array_agg(p.id) filter (where p.leased_until is not null),
    array_agg(p.webhook_id) filter (where p.leased_until is not null),
    array_agg(distinct p.webhook_id) filter (where p.leased_until is null and p.turn_at is null)
  into leased_ids, leased_webhook_ids, webhook_ids
  from unnest(p_delivery_ids, p_webhook_ids, p_turns, v_leases)
    as p (id, webhook_id, turn_at, leased_until);
end;
$$;

comment on function webhookpub.queue_deliveries
  (text[], text[], text[], timestamptz[], integer, timestamptz) is
  'Puts new deliveries into the queue, up to p_room of them leased; returns those, and the webhooks that have something waiting.';
--! EndIncluded 2_fan_out/queue_deliveries.sql
--! Included 2_fan_out/requests_at_birth.sql
-- Says what to POST for deliveries that are born leased, where that is little: the answer of the
-- fan-out brings it along, and saves its worker a question for each event.
--
-- Called by  webhookpub.fan_out_batch.
-- Returns    an array of what webhookpub.lease_requests would return, or null: then it is asked.
--
-- Little is what leaves the server in one piece, behind the commit. What is more leaves it before, and
-- would hold the locks of the batch for as long as a worker that has frozen does not read it. Whatever
-- goes wrong here is no error of the batch: whoever asks hears of it.

create or replace function webhookpub.requests_at_birth (
  p_delivery_ids text[],
  p_events webhookpub.events[]
)
  returns json
  language plpgsql
  volatile
as $$
declare
  v_most constant integer := 6000;
  v_requests json;
begin
  if cardinality(p_delivery_ids) <= 5
    and (select max(octet_length(e.envelope)) from unnest(p_events) as e)
      * cardinality(p_delivery_ids) <= v_most
  then
    select json_agg(r) into v_requests from webhookpub.signed_requests(p_delivery_ids) as r;
  end if;
  return case when octet_length(v_requests::text) <= v_most then v_requests end;
exception when others then
  return null;
end;
$$;

comment on function webhookpub.requests_at_birth (text[], webhookpub.events[]) is
  'What to POST for these deliveries, which are new, leased, and of these events; null: it is too much to go along.';
--! EndIncluded 2_fan_out/requests_at_birth.sql
--! Included 2_fan_out/room_at_birth.sql
-- Says how many deliveries of a webhook may be born leased: a few, if it is well and has nothing
-- else waiting. Whoever has a pace is in no hurry.
--
-- Called by  webhookpub.leases_at_birth, per row: no pinned path, so that it is inlined.
-- Returns    one row: how many, and until when they would be leased; or none.

create or replace function webhookpub.room_at_birth (
  p_webhook_id text,
  p_most integer,
  p_now timestamptz
)
  returns table (
    room integer,
    leased_until timestamptz
  )
  language sql
  stable
as $$
  select
    least(p_most - n.under_way, n.room),
    p_now + interval '15 seconds' + coalesce(w.request_timeout, s.request_timeout)
  from webhookpub.webhooks as w
  cross join lateral webhookpub.standing(w, p_now) as n
  cross join webhookpub.settings as s
  where w.id = p_webhook_id and w.unanswered = 0 and w.max_per_second is null
    -- What is due goes first.
    and not exists (
      select
      from webhookpub.queue as q
      where q.webhook_id = w.id and not q.leased and q.due_at <= p_now
    )
  offset 0;
$$;

comment on function webhookpub.room_at_birth (text, integer, timestamptz) is
  'How many deliveries of a webhook may be born leased, at most p_most, and until when; no row: none.';
--! EndIncluded 2_fan_out/room_at_birth.sql
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
--! Included 2_fan_out/take_turns.sql
-- Says which of the new deliveries of ordered webhooks have to wait for their turn.
--
-- Called by  webhookpub.fan_out_events, whose events webhookpub.keep_order has let through.
-- Returns    for each delivery the ordering key that it goes by, or null; and when it has to wait,
--            its event's time. Nulls when no event has an ordering key.

create or replace function webhookpub.take_turns (
  p_delivery_ids text[],
  p_webhook_ids text[],
  p_event_ids text[],
  p_events webhookpub.events[],
  out ordering_keys text[],
  out turns timestamptz[]
)
  language plpgsql
  stable
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
begin
  -- A few go by a plan that is kept.
  if cardinality(p_events) <= 20 then
    perform pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true);
    perform pg_catalog.set_config('enable_hashjoin', 'off', true);
    perform pg_catalog.set_config('enable_mergejoin', 'off', true);
  end if;
  select
    array_agg(t.ordering_key order by t.n),
    array_agg(case when t.place > 1 or t.follows then t.created_at end order by t.n)
  into ordering_keys, turns
  from (
    select
      p.n, e.ordering_key, e.created_at,
      row_number() over (
        partition by p.webhook_id, e.ordering_key order by e.created_at, p.delivery_id
      ) as place,
      exists (
        select
        from webhookpub.queue as q
        where q.webhook_id = p.webhook_id and q.ordering_key = e.ordering_key and q.turn_at is null
      ) as follows
    from unnest(p_delivery_ids, p_webhook_ids, p_event_ids)
      with ordinality as p (delivery_id, webhook_id, event_id, n)
    cross join lateral (
      select w.ordered from webhookpub.webhooks as w where w.id = p.webhook_id offset 0
    ) as w
    left join unnest(p_events) as e
      on e.id = p.event_id and e.ordering_key is not null and w.ordered
  ) as t;
end;
$$;

comment on function webhookpub.take_turns (text[], text[], text[], webhookpub.events[]) is
  'By which ordering key each of these new deliveries goes, and which have to wait for their turn.';
--! EndIncluded 2_fan_out/take_turns.sql
--! Included 2_fan_out/time_is_up.sql
-- Says whether a statement has used up its time, when it was cancelled: if not, somebody wants
-- it to end.
--
-- Called by  webhookpub.fan_out, webhookpub.fan_out_batch, webhookpub.fan_out_singly.
-- Returns    whether it has taken this part of statement_timeout; false if that is not set.
--            Not all of it: it counts from the parsing of the statement, and that is not known.

create or replace function webhookpub.time_is_up (
  p_part double precision default 0.8
)
  returns boolean
  language sql
  volatile
return current_setting('statement_timeout') <> '0'
  and clock_timestamp() - statement_timestamp()
    >= current_setting('statement_timeout')::interval * p_part;

comment on function webhookpub.time_is_up (double precision) is
  'Whether this statement has taken as long as statement_timeout lets it, or that part of it.';
--! EndIncluded 2_fan_out/time_is_up.sql
--! Included 2_fan_out/type_patterns.sql
-- Lists every entry of webhooks.events that an event type satisfies.
--
-- Called by  webhookpub.fan_out_events, webhookpub.explain_event, webhookpub.check_events.
-- Returns    for email.sent: {*, email.*, email.sent}. One array overlap then decides.
--
-- PL/pgSQL keeps the plan; as an SQL function it took as long as the rest of a small fan-out.

create or replace function webhookpub.type_patterns (
  p_event_type text
)
  returns text[]
  language plpgsql
  immutable
  strict
  parallel safe
as $$
begin
  return (
    select array_agg(
      case
        when n.words = 0 then '*'
        when n.words = cardinality(t.words) then p_event_type
        else array_to_string(t.words[1 : n.words], '.') || '.*'
      end
      order by n.words
    )
    from (select string_to_array(p_event_type, '.') as words) as t
    cross join generate_series(0, cardinality(t.words)) as n (words)
  );
end;
$$;

comment on function webhookpub.type_patterns (text) is
  'The entries of webhooks.events that match this type: *, each prefix with .*, and itself.';
--! EndIncluded 2_fan_out/type_patterns.sql
--! Included 2_fan_out/unmatched_clause.sql
-- Decides whether an event is for a webhook, and if not, which clause says so. This is
-- the one implementation of matching: fan-out and explain_event both ask it.
--
-- Called by  webhookpub.fan_out_events, webhookpub.explain_event, per row: no pinned path,
--            so that it is inlined. Names are qualified.
-- Returns    the first clause that does not hold, or null when all do: a match.
-- Raises     WH023, from p_until on.

create or replace function webhookpub.unmatched_clause (
  p_webhook webhookpub.webhooks,
  p_event webhookpub.events,
  p_type_patterns text[],
  p_data jsonb,
  p_until timestamptz default null
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
      and not webhookpub.data_holds(p_data, p_webhook.filter_data, p_until)
      then 'data: the predicate is not true'
  end;
$$;

comment on function webhookpub.unmatched_clause
  (webhookpub.webhooks, webhookpub.events, text[], jsonb, timestamptz) is
  'The first clause of a webhook that an event does not satisfy; null when it matches. Raises WH023 after p_until.';
--! EndIncluded 2_fan_out/unmatched_clause.sql
--! Included 2_fan_out/users_of.sql
-- Says whose webhooks these are, so that a worker can share fairly.
--
-- Called by  webhookpub.fan_out_batch.
-- Returns    the user of each, in the same order; null for null.

create or replace function webhookpub.users_of (
  p_webhook_ids text[]
)
  returns text[]
  language plpgsql
  stable
as $$
begin
  if p_webhook_ids is null then
    return null;
  end if;
  return array(
    select (select w.user_id from webhookpub.webhooks as w where w.id = p.id)
    from unnest(p_webhook_ids) with ordinality as p (id, n)
    order by p.n
  );
end;
$$;

comment on function webhookpub.users_of (text[]) is
  'The user of each of these webhooks.';
--! EndIncluded 2_fan_out/users_of.sql
--! Included 3_deliver/delivery_is_on.sql
-- Says whether anything may be sent: not while settings.deliver_enabled is false, nor in a
-- database whose own setting webhookpub.deliver_enabled is off.
--
-- Called by  webhookpub.lease_deliveries, webhookpub.leases_at_birth, webhookpub.wake,
--            webhookpub.add_deliver_jobs; webhookpub.diagnose_work, webhookpub.webhook_waits.
--
-- The second is for copies: alter database … set it before there is anything in it, and no worker
-- can be faster.

create or replace function webhookpub.delivery_is_on ()
  returns boolean
  language sql
  stable
as $$
  select s.deliver_enabled
    and coalesce(pg_catalog.current_setting('webhookpub.deliver_enabled', true), 'on')
      not in ('off', 'false', 'no', '0')
  from webhookpub.settings as s;
$$;

comment on function webhookpub.delivery_is_on () is
  'Whether anything may be sent from this database, by its settings.';
--! EndIncluded 3_deliver/delivery_is_on.sql
--! Included 3_deliver/due_deliveries.sql
-- Picks due deliveries of some webhooks, as many as each has room for, and locks them. Suspects
-- (webhookpub.due_suspects) come first, then those whose worker was lost.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    where they are in the queue, or null; whose they are; until when each would be
--            leased; and whether it is the last for which its webhook had room.

create or replace function webhookpub.due_deliveries (
  p_webhook_ids text[],
  p_limits integer[],
  p_now timestamptz,
  p_suspects text[],
  out due tid[],
  out webhook_ids text[],
  out leased_until timestamptz[],
  out more boolean[]
)
  language plpgsql
  volatile
as $$
declare
  v_timeout constant interval := (select s.request_timeout from webhookpub.settings as s);
begin
  -- From few webhooks to few deliveries, by one look into an index for each: "offset 0" and
  -- the order by keep the planner from any other way.
  select
    array_agg(f.at),
    array_agg(w.id),
    array_agg(p_now + interval '15 seconds' + coalesce(w.request_timeout, v_timeout)),
    array_agg(f.n = w.room)
  into due, webhook_ids, leased_until, more
  from unnest(p_webhook_ids, p_limits) as p (id, room)
  cross join lateral (
    select w.id, w.request_timeout, least(p.room, s.room) as room
    from webhookpub.webhooks as w
    cross join lateral webhookpub.standing(w, p_now) as s
    where w.id = p.id
    offset 0
  ) as w
  cross join lateral (
    select u.at, row_number() over () as n
    from (
      select s.at
      from (
        select q.ctid as at
        from webhookpub.queue as q
        -- By the primary key, never through all that the webhook waits for.
        where q.delivery_id = any (p_suspects) and q.webhook_id || '' = w.id
        limit greatest(w.room, 0)
        for update skip locked
      ) as s
      union all
      -- Those that two workers were lost with go as p_suspects only.
      select l.at
      from (
        select q.ctid as at
        from webhookpub.queue as q
        where q.webhook_id = w.id and q.leased and q.due_at <= p_now and q.suspicion = 0
        order by q.due_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as l
      union all
      select r.at
      from (
        select q.ctid as at
        from webhookpub.queue as q
        where q.webhook_id = w.id and not q.leased and q.due_at <= p_now
        order by q.due_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as r
    ) as u
    limit greatest(w.room, 0)
  ) as f;
end;
$$;

comment on function webhookpub.due_deliveries (text[], integer[], timestamptz, text[]) is
  'Locks due deliveries of these webhooks, at most p_limits of each, as far as its webhook has room; returns where they are in the queue.';
--! EndIncluded 3_deliver/due_deliveries.sql
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
--! Included 3_deliver/hold_leases.sql
-- Locks the leases of webhooks: who holds one is alone in leasing for that webhook.
--
-- Called by  webhookpub.lease_deliveries.
-- Locks      them, for the length of the transaction, skipping what somebody else holds.
-- Returns    those that are locked, with their limits; those that somebody else holds; and whether
--            any of them has a pace.

create or replace function webhookpub.hold_leases (
  p_webhook_ids text[],
  p_limits integer[],
  out free text[],
  out limits integer[],
  out held text[],
  out has_pace boolean
)
  language sql
  volatile
as $$
  select
    array_agg(p.id) filter (where p.is_free),
    array_agg(p.room) filter (where p.is_free),
    array_agg(p.id) filter (where not p.is_free),
    bool_or(p.has_pace)
  from (
    select
      p.id, p.room, pg_try_advisory_xact_lock(2003006833, hashtext(p.id)) as is_free,
      (select w.max_per_second is not null from webhookpub.webhooks as w where w.id = p.id) as has_pace
    from unnest(p_webhook_ids, p_limits) as p (id, room)
    offset 0
  ) as p;
$$;

comment on function webhookpub.hold_leases (text[], integer[]) is
  'Locks the leases of these webhooks; says of which somebody else holds it.';
--! EndIncluded 3_deliver/hold_leases.sql
--! Included 3_deliver/lease_deliveries.sql
-- Leases due deliveries to a worker. It writes and returns next to nothing, so that it has
-- committed before anything big travels: webhookpub.lease_requests says what to POST.
--
-- Called by  the deliverer of a worker, for many webhooks at once.
-- Locks      each webhook's lease, for the length of this call; then the deliveries. Whatever
--            somebody else holds of it is skipped, never waited for.
-- Returns    one row for each leased delivery. The lease lasts 15 s longer than its request
--            may, so that its answer can be recorded. more: it was the last for which its
--            webhook had room, so there may be more that is due; holds_up: others wait for its
--            end. A row without a delivery says in how many milliseconds to ask again for a
--            webhook: somebody else held its lease, or its pace is spent.
--
-- The lease is due_at itself: an answer, a retry and a worker that died are all the same
-- thing, a row of the queue that is due or not.

create or replace function webhookpub.lease_deliveries (
  p_webhook_ids text[],
  p_limits integer[] default null
)
  returns table (
    webhook_id text,
    delivery_id text,
    attempt integer,
    started_at timestamptz,
    more boolean,
    holds_up boolean,
    wait_ms integer
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
declare
  v_leases record;
  v_now timestamptz;
  v_suspects record;
  v_due record;
begin
  if not webhookpub.delivery_is_on() then return; end if;
  -- A statement of its own: the next one must see what the last holder did.
  v_leases := webhookpub.hold_leases(p_webhook_ids, p_limits);
  v_now := clock_timestamp();
  v_suspects := webhookpub.due_suspects(v_leases.free, v_now);
  v_due := webhookpub.due_deliveries(v_leases.free, v_leases.limits, v_now, v_suspects.ids);
  if v_leases.held is not null or v_leases.has_pace then
    return query
      select w.webhook_id, null::text, null::integer, null::timestamptz, true, false, w.wait_ms
      from (
        select h.id, 20 from unnest(v_leases.held) as h (id)
        union all
        select * from webhookpub.spend_pace(v_leases.free, v_due.webhook_ids, v_now)
      ) as w (webhook_id, wait_ms);
  end if;
  return query
    update webhookpub.queue as q
    set
      leased = true,
      lost = q.lost + q.leased::integer,
      suspicion = case
        when not q.leased then 0
        when q.suspicion = 0 then 1
        when v_suspects.alone then 3
        else 2
      end,
      attempt = q.attempt + 1,
      last_attempt_at = v_now,
      due_at = d.leased_until
    from unnest(v_due.due, v_due.leased_until, v_due.more) as d (at, leased_until, more)
    -- They are locked, so they are where they were.
    where q.ctid = d.at
    returning q.webhook_id, q.delivery_id, q.attempt, v_now, d.more,
      q.ordering_key is not null and exists (
        select
        from webhookpub.queue as n
        where n.webhook_id = q.webhook_id and n.ordering_key = q.ordering_key
          and n.turn_at is not null
      ), null::integer;
end;
$$;

comment on function webhookpub.lease_deliveries (text[], integer[]) is
  'Leases due deliveries of these webhooks, at most p_limits of each, within max_in_flight and pace; lease_requests says what to POST.';
--! EndIncluded 3_deliver/lease_deliveries.sql
--! Included 3_deliver/lease_requests.sql
-- Says what to POST for deliveries that a worker has leased, signed with the secrets in force.
-- As many as fit into some megabytes, and one at least: whoever asked asks again for the rest.
--
-- Called by  the deliverer of a worker. It writes nothing and locks nothing: whatever becomes
--            of the worker while this travels, nobody waits for it.
-- Returns    one row for each. If problem is not null, it can't be sent, for that reason: then
--            the worker gives it back (webhookpub.release_deliveries), and the others go.

create or replace function webhookpub.lease_requests (
  p_delivery_ids text[]
)
  returns table (
    delivery_id text,
    event_id text,
    event_type text,
    url text,
    headers jsonb,
    signature_scheme text,
    signed_at bigint,
    signature text,
    body text,
    timeout_ms integer,
    policy text,
    awaited boolean,
    problem text
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
begin
  return query select * from webhookpub.signed_requests(p_delivery_ids);
exception when data_exception or integrity_constraint_violation or external_routine_exception
    or external_routine_invocation_exception then
  -- One of them is the culprit; some at a time, for each takes a look of its own.
  foreach delivery_id in array p_delivery_ids[: 20] loop
    begin
      return query select * from webhookpub.signed_requests(array[delivery_id]);
    exception when data_exception or integrity_constraint_violation or external_routine_exception
        or external_routine_invocation_exception then
      problem := format('it can''t be signed: %s (%s)', sqlerrm, sqlstate);
      return next;
      problem := null;
    end;
  end loop;
end;
$$;

comment on function webhookpub.lease_requests (text[]) is
  'What to POST for these leased deliveries, signed; as many of them as fit into 8 MB, but one.';
--! EndIncluded 3_deliver/lease_requests.sql
--! Included 3_deliver/pace_burst.sql
-- Says how long a webhook with a pace may save up what it did not use: a quarter of a second, or
-- as long as one request takes it.
--
-- Called by  webhookpub.pace_allows, webhookpub.spend_pace, per row: no pinned path, so that it is
--            inlined.
-- Returns    seconds.

create or replace function webhookpub.pace_burst (
  p_max_per_second double precision
)
  returns double precision
  language sql
  immutable
  parallel safe
return greatest(0.25, 1 / p_max_per_second);

comment on function webhookpub.pace_burst (double precision) is
  'For how many seconds a webhook may save up its pace.';
--! EndIncluded 3_deliver/pace_burst.sql
--! Included 3_deliver/pace_allows.sql
-- Says how many requests a webhook may begin now by its pace: those that have come up since the
-- last ones, evenly, and no more than a burst (the generic cell rate algorithm).
--
-- Called by  webhookpub.standing, webhookpub.spend_pace, per row: no pinned path, so that it is
--            inlined.
-- Returns    null for a webhook without a pace.

create or replace function webhookpub.pace_allows (
  p_max_per_second double precision,
  p_spent_until timestamptz,
  p_now timestamptz
)
  returns integer
  language sql
  immutable
  parallel safe
return case
  -- By a slower pace, or before the clock was set back: one goes, and sets it right.
  when extract(epoch from p_spent_until - p_now)::double precision
    > webhookpub.pace_burst(p_max_per_second) + 1 then 1
  else floor(
    p_max_per_second * (
      webhookpub.pace_burst(p_max_per_second)
      - coalesce(greatest(extract(epoch from p_spent_until - p_now)::double precision, 0), 0)
    )
    -- What is whole but for the last bit of a fraction is whole.
    + 0.000001
  )
end;

comment on function webhookpub.pace_allows (double precision, timestamptz, timestamptz) is
  'How many requests a webhook may begin now by its pace; null: any number.';
--! EndIncluded 3_deliver/pace_allows.sql
--! Included 3_deliver/release_deliveries.sql
-- Takes back leases of which nothing was sent. No attempt is burned: what the receiver does not
-- know of does not count.
--
-- Called by  a worker that can't send them, or has to end.
-- Locks      the deliveries, skipping those that somebody else holds: their leases run out.
--
-- With an error, they wait for a minute and keep it, for somebody has to see to it; without, they
-- are due at once.

create or replace function webhookpub.release_deliveries (
  p_delivery_ids text[],
  p_attempts integer[],
  p_errors text[] default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_held tid[];
  v_errors text[];
begin
  select array_agg(q.at), array_agg(p.error) into v_held, v_errors
  from unnest(p_delivery_ids, p_attempts, p_errors) as p (delivery_id, attempt, error)
  cross join lateral (
    select q.ctid as at
    from webhookpub.queue as q
    where q.delivery_id = p.delivery_id and q.leased and q.attempt = p.attempt
    for update skip locked
    offset 0
  ) as q;
  update webhookpub.queue as q
  set
    leased = false,
    lost = q.lost + 1,
    suspicion = 0,
    due_at = v_now + case when h.error is null then interval '0' else interval '1 minute' end,
    last_error = coalesce(h.error, q.last_error)
  from unnest(v_held, v_errors) as h (at, error)
  where q.ctid = h.at;
end;
$$;

comment on function webhookpub.release_deliveries (text[], integer[], text[]) is
  'Gives back leased deliveries of which nothing was sent, each with the number of its attempt and, if there is one, the error that it keeps.';
--! EndIncluded 3_deliver/release_deliveries.sql
--! Included 3_deliver/webhook_waits_for.sql
-- Says why nothing of a webhook may be sent now. What is leased and what people read go by it
-- alike.
--
-- Called by  webhookpub.requests_allowed, webhookpub.standing, webhookpub.delivery_log, per
--            row: no pinned path, so that it is inlined.
-- Returns    null when nothing is in the way.

create or replace function webhookpub.webhook_waits_for (
  p_webhook webhookpub.webhooks,
  p_has_secret boolean,
  p_paced integer,
  p_now timestamptz
)
  returns text
  language sql
  immutable
  parallel safe
return case
  when not p_webhook.enabled then 'enabled webhook'
  -- As after a restore that left them out: nothing goes out unsigned.
  when not p_has_secret then 'secret'
  when p_webhook.circuit_retry_at > p_now then 'closed circuit'
  when p_webhook.paused_until > p_now then 'end of pause'
  when p_paced < 1 then 'pace'
end;

comment on function webhookpub.webhook_waits_for
  (webhookpub.webhooks, boolean, integer, timestamptz) is
  'What a webhook waits for before anything of it is sent: an enabled webhook, a secret, a closed circuit, the end of a pause, or its pace; null: nothing.';
--! EndIncluded 3_deliver/webhook_waits_for.sql
--! Included 3_deliver/requests_allowed.sql
-- Says how many requests a webhook may have under way now: max_in_flight of them; one while its
-- circuit is open and the pause over, to try. After a pause that its receiver asked for one, and
-- one more with each second, so that what has waited does not come back at once.
--
-- Called by  webhookpub.standing, per row: no pinned path, so that it is inlined.

create or replace function webhookpub.requests_allowed (
  p_webhook webhookpub.webhooks,
  p_has_secret boolean,
  p_paced integer,
  p_now timestamptz
)
  returns integer
  language sql
  immutable
  parallel safe
return case
  when webhookpub.webhook_waits_for(p_webhook, p_has_secret, p_paced, p_now) is not null then 0
  when p_webhook.circuit_retry_at is not null then 1
  when p_webhook.paused_until is not null then least(
    p_webhook.max_in_flight, 1 + floor(extract(epoch from p_now - p_webhook.paused_until))
  )::integer
  else p_webhook.max_in_flight
end;

comment on function webhookpub.requests_allowed
  (webhookpub.webhooks, boolean, integer, timestamptz) is
  'How many requests of a webhook may be under way: max_in_flight, or fewer by what it waits for.';
--! EndIncluded 3_deliver/requests_allowed.sql
--! Included 3_deliver/sign_standard.sql
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
--! EndIncluded 3_deliver/sign_standard.sql
--! Included 3_deliver/sign_stripe.sql
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
--! EndIncluded 3_deliver/sign_stripe.sql
--! Included 3_deliver/sign_request.sql
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
--! EndIncluded 3_deliver/sign_request.sql
--! Included 3_deliver/signed_requests.sql
-- Puts the requests of deliveries together and signs them.
--
-- Called by  webhookpub.lease_requests, webhookpub.requests_at_birth.
-- Returns    as many of them, in order, as have bodies of 8 MB together, and one at least.
--
-- Where a webhook keeps order, or has little room, others wait until an answer is recorded, on any worker:
-- that is "awaited". A webhook has one secret, or during a rotation two.

create or replace function webhookpub.signed_requests (
  p_delivery_ids text[]
)
  returns table (
    delivery_id text,
    event_id text,
    event_type text,
    url text,
    headers jsonb,
    signature_scheme text,
    signed_at bigint,
    signature text,
    body text,
    timeout_ms integer,
    policy text,
    awaited boolean,
    problem text
  )
  language plpgsql
  volatile
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := clock_timestamp();
  v_seconds constant bigint := floor(extract(epoch from v_now));
  v_settings webhookpub.settings;
  v_policy text;
  v_history webhookpub.delivery_history[];
  v_first_event_at timestamptz;
  v_last_event_at timestamptz;
begin
  select s.* into v_settings from webhookpub.settings as s;
  v_policy := json_build_object(
    'allowHttp', v_settings.allow_http, 'allowed', v_settings.allowed_networks::text[]
  );
  -- A row of its own type: one of a subquery's is "record", and goes through text to become another.
  select array_agg(h.row), min((h.row).event_created_at), max((h.row).event_created_at)
  into v_history, v_first_event_at, v_last_event_at
  from unnest(p_delivery_ids) as p (id)
  cross join lateral (
    select h as row from webhookpub.delivery_history as h where h.id = p.id offset 0
  ) as h;

  return query
  select
    h.id, h.event_id, h.event_type, w.url, w.headers, w.signature_scheme, v_seconds, g.signature,
    h.body,
    (extract(epoch from coalesce(w.request_timeout, v_settings.request_timeout)) * 1000)::integer,
    v_policy, w.ordered or w.max_in_flight <= 10,
    case
      when h.body is null then 'its envelope is gone'
      when g.signature is null then 'its webhook has no secret'
    end
  from (
    select
      h.id, h.webhook_id, h.event_id, h.event_type, n.body,
      sum(octet_length(n.body)) over (rows unbounded preceding) - octet_length(n.body) as before
    from unnest(v_history) as h
    -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
    left join lateral (
      select n.body
      from webhookpub.envelopes as n
      where n.event_id = h.event_id and n.created_at = h.event_created_at
        -- So that only the partitions of these days are opened.
        and n.created_at between v_first_event_at and v_last_event_at
      offset 0
    ) as n on true
    offset 0
  ) as h
  cross join lateral (
    select w.url, w.headers, w.signature_scheme, w.request_timeout, w.ordered, w.max_in_flight
    from webhookpub.webhooks as w
    where w.id = h.webhook_id
    offset 0
  ) as w
  cross join lateral (
    select
      max(k.secret) filter (where k.expires_at is null) as current,
      max(k.secret) filter (where k.expires_at > v_now) as previous
    from webhookpub.secrets as k
    where k.webhook_id = h.webhook_id
    offset 0
  ) as k
  cross join lateral (
    select webhookpub.sign_request(
      w.signature_scheme, k.current, k.previous, h.event_id, v_seconds, h.body
    ) as signature
    offset 0
  ) as g
  where h.before is null or h.before < 8000000;
end;
$$;

comment on function webhookpub.signed_requests (text[]) is
  'The requests of these deliveries, signed; as many as have bodies of 8 MB together, but one at least.';
--! EndIncluded 3_deliver/signed_requests.sql
--! Included 3_deliver/spend_pace.sql
-- Writes down what was leased of webhooks that have a pace.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      their paces.
-- Returns    one row for each that may begin nothing more now: in how many milliseconds it may
--            again, some at a time where it is fast.

create or replace function webhookpub.spend_pace (
  p_webhook_ids text[],
  p_leased_webhook_ids text[],
  p_now timestamptz
)
  returns table (
    webhook_id text,
    wait_ms integer
  )
  language sql
  volatile
as $$
  with paced as materialized (
    select
      w.id, w.rate,
      case
        when l.count > 0 then least(
          greatest(c.spent_until, p_now) + interval '1 second' * (l.count / w.rate), w.fullest
        )
        -- By a slower pace, which it had before.
        when c.spent_until > w.fullest then w.fullest
        else c.spent_until
      end as spent_until,
      l.count > 0 or c.spent_until > w.fullest as is_new
    from unnest(p_webhook_ids) as p (id)
    cross join lateral (
      select
        w.id, r.rate, p_now + interval '1 second' * webhookpub.pace_burst(r.rate) as fullest
      from webhookpub.webhooks as w
      cross join lateral (select w.max_per_second::double precision as rate) as r
      where w.id = p.id and w.max_per_second is not null
      offset 0
    ) as w
    cross join lateral (
      select count(*) as count from unnest(p_leased_webhook_ids) as l (id) where l.id = w.id
    ) as l
    left join lateral (
      select c.spent_until from webhookpub.paces as c where c.webhook_id = w.id offset 0
    ) as c on true
  ),
  spent as (
    insert into webhookpub.paces as c (webhook_id, spent_until)
    select p.id, p.spent_until from paced as p where p.is_new
    on conflict (webhook_id) do update set spent_until = excluded.spent_until
  )
  select p.id, ceil(1000 * (
    extract(epoch from p.spent_until - p_now)::double precision
    - webhookpub.pace_burst(p.rate)
    -- A lease for each request would cost more than ten for each second.
    + greatest(1, floor(p.rate / 10)) / p.rate
  ))::integer
  from paced as p
  where webhookpub.pace_allows(p.rate, p.spent_until, p_now) < 1;
$$;

comment on function webhookpub.spend_pace (text[], text[], timestamptz) is
  'Counts what was leased of each of these webhooks towards its pace; returns those that have to wait, and for how long.';
--! EndIncluded 3_deliver/spend_pace.sql
--! Included 3_deliver/standing.sql
-- Says for how many more requests a webhook has room now, if for none, why, and how many are under
-- way.
--
-- Called by  webhookpub.due_deliveries, webhookpub.room_at_birth, webhookpub.wake_deliveries,
--            webhookpub.due_suspects, webhookpub.webhook_waits, per row: no pinned path, so that
--            it is inlined.
-- Returns    one row.

create or replace function webhookpub.standing (
  p_webhook webhookpub.webhooks,
  p_now timestamptz
)
  returns table (
    room integer,
    waits_for text,
    under_way integer
  )
  language sql
  stable
as $$
  select
    least(
      webhookpub.requests_allowed(p_webhook, f.has_secret, f.paced, p_now) - f.under_way, f.paced
    ),
    coalesce(
      webhookpub.webhook_waits_for(p_webhook, f.has_secret, f.paced, p_now),
      case
        when webhookpub.requests_allowed(p_webhook, f.has_secret, f.paced, p_now) <= f.under_way
          then 'room'
      end
    ),
    f.under_way
  from (
    select
      exists (
        select
        from webhookpub.secrets as k
        where k.webhook_id = p_webhook.id and k.expires_at is null
      ) as has_secret,
      case when p_webhook.max_per_second is not null then (
        select webhookpub.pace_allows(
          p_webhook.max_per_second::double precision, max(c.spent_until), p_now
        )
        from webhookpub.paces as c
        where c.webhook_id = p_webhook.id
      ) end as paced,
      (
        select count(*)
        from (
          select
          from webhookpub.queue as q
          where q.webhook_id = p_webhook.id and q.leased and q.due_at > p_now
          order by q.due_at
          limit p_webhook.max_in_flight
        ) as q
      )::integer as under_way
    offset 0
  ) as f;
$$;

comment on function webhookpub.standing (webhookpub.webhooks, timestamptz) is
  'For how many more requests a webhook has room now, what it waits for if for none, and how many are under way.';
--! EndIncluded 3_deliver/standing.sql
--! Included 4_record/apply_verdicts.sql
-- Ends deliveries as their answers have it: out of the queue, and into the history.
--
-- Called by  webhookpub.record_attempts, which has locked them in the queue.
--
-- Of two answers to one delivery a success counts: it comes first, and then there is nothing in
-- the queue for the other.

create or replace function webhookpub.apply_verdicts (
  p_answers webhookpub.answer[],
  p_now timestamptz
)
  returns void
  language plpgsql
  volatile
as $$
begin
  delete from webhookpub.queue as q
  where q.ctid = any (array(
    select a.queue_at from unnest(p_answers) as a where a.verdict in ('delivered', 'failed')
  ));
  update webhookpub.delivery_history as h
  set
    status = a.verdict,
    attempts = a.attempts,
    lost = a.lost,
    last_attempt_at = a.last_attempt_at,
    delivered_at = case when a.verdict = 'delivered' then p_now end,
    last_status_code = a.status_code,
    last_error = a.error
  from (
    select a.* from unnest(p_answers) as a where a.verdict in ('delivered', 'failed') offset 0
  ) as a
  where h.ctid = a.history_at;
end;
$$;

comment on function webhookpub.apply_verdicts (webhookpub.answer[], timestamptz) is
  'Ends the deliveries of these answers that were delivered or have failed.';
--! EndIncluded 4_record/apply_verdicts.sql
--! Included 4_record/disable_webhooks.sql
-- Disables webhooks for a reason of the system's own, and tells their users.
--
-- Called by  webhookpub.follow_answers (gone), webhookpub.disable_failing (failing).
-- Locks      the webhooks, which its callers have locked already; it waits for none.
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
    for no key update skip locked
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
--! Included 4_record/end_deliveries.sql
-- Takes deliveries out of the queue, without another attempt: what the queue knows of each
-- becomes the end of its history, and whose turn it is next becomes due.
--
-- Called by  webhookpub.delete_webhook, webhookpub.cancel_deleted, webhookpub.park_lost,
--            webhookpub.skip, which have locked them.
-- Returns    how many.

create or replace function webhookpub.end_deliveries (
  p_delivery_ids text[],
  p_status text
)
  returns bigint
  language plpgsql
  volatile
as $$
declare
  v_ended record;
begin
  with taken as (
    delete from webhookpub.queue as q
    where q.delivery_id = any (p_delivery_ids)
    returning q.*
  ),
  ended as (
    update webhookpub.delivery_history as h
    set
      status = p_status,
      attempts = t.attempt,
      lost = t.lost,
      last_attempt_at = t.last_attempt_at,
      last_status_code = t.last_status_code,
      last_error = t.last_error
    from (
      select t.*, (
        select h.ctid from webhookpub.delivery_history as h where h.id = t.delivery_id
      ) as at
      from taken as t
    ) as t
    -- By where it is, which only whoever holds its row of the queue changes: no plan can
    -- come to read the whole history.
    where h.ctid = t.at
    returning t.webhook_id, t.ordering_key, t.ordering_key is not null and t.turn_at is null as is_turn
  )
  select
    count(*) as count,
    array_agg(e.webhook_id) filter (where e.is_turn) as webhook_ids,
    array_agg(e.ordering_key) filter (where e.is_turn) as ordering_keys
  into v_ended
  from ended as e;
  if v_ended.webhook_ids is not null then
    perform webhookpub.pass_turns(
      webhookpub.next_turns(v_ended.webhook_ids, v_ended.ordering_keys), clock_timestamp()
    );
  end if;
  return v_ended.count;
end;
$$;

comment on function webhookpub.end_deliveries (text[], text) is
  'Ends these deliveries, which are pending and locked, as failed or cancelled; returns how many.';
--! EndIncluded 4_record/end_deliveries.sql
--! Included 4_record/follow_answers.sql
-- Does what answers bring with them beyond their own deliveries: whose turn it is goes, who is gone
-- is disabled, what has failed is told, and the next suspect may be tried.
--
-- Called by  webhookpub.record_attempts, which has moved the deliveries.
-- Returns    the deliveries whose answers have to be told again, and the webhooks for which a turn
--            has passed on.

create or replace function webhookpub.follow_answers (
  p_answers webhookpub.answer[],
  p_turns tid[],
  p_now timestamptz,
  out held_ids text[],
  out ready_webhook_ids text[]
)
  language plpgsql
  volatile
as $$
declare
  v_seen record;
begin
  select
    array_agg(a.delivery_id) filter (where a.verdict = 'held') as held,
    array_agg(a.delivery_id) filter (where a.verdict = 'failed') as failed,
    array_agg(a.webhook_id) filter (where a.verdict = 'failed' and a.status_code = 410) as gone,
    bool_or(a.suspected) as suspected
  into v_seen
  from unnest(p_answers) as a;
  if p_turns is not null then
    ready_webhook_ids := webhookpub.pass_turns(p_turns, p_now);
  end if;
  if v_seen.gone is not null then
    perform webhookpub.disable_webhooks(v_seen.gone, 'gone');
  end if;
  if v_seen.failed is not null then
    perform webhookpub.publish_delivery_failed(v_seen.failed);
  end if;
  if v_seen.suspected then
    -- A suspect less is under way: the next may be tried.
    perform webhookpub.wake_suspects(p_now);
  end if;
  held_ids := coalesce(v_seen.held, '{}');
end;
$$;

comment on function webhookpub.follow_answers (webhookpub.answer[], tid[], timestamptz) is
  'Passes turns on, disables who is gone, tells what has failed; returns the deliveries that somebody holds, and the webhooks for which a turn has passed on.';
--! EndIncluded 4_record/follow_answers.sql
--! Included 4_record/hold_answers.sql
-- Locks the webhooks that have to learn of an answer in the transaction that records it: one
-- that answered 410 is disabled, one whose receiver asks for a pause has one, and a probe
-- that failed keeps its circuit open. Lost, it would send the next request at once.
--
-- Called by  webhookpub.record_attempts.
-- Locks      those webhooks, skipping what somebody else holds.
-- Returns    the deliveries whose webhooks somebody holds: their answers have to wait.
--
-- None waits longer than its lease lasts, but for a 410, which is the last answer: it would go
-- out again, and be taken for one whose worker was lost.

create or replace function webhookpub.hold_answers (
  p_delivery_ids text[],
  p_status_codes integer[],
  p_retry_afters text[],
  p_now timestamptz
)
  returns text[]
  language sql
  volatile
as $$
  with told as materialized (
    select q.delivery_id, w.id as webhook_id
    from unnest(p_delivery_ids, p_status_codes, p_retry_afters)
      as r (delivery_id, status_code, retry_after)
    -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
    cross join lateral (
      select q.delivery_id, q.webhook_id
      from webhookpub.queue as q
      where q.delivery_id = r.delivery_id
        and (
          r.status_code = 410
          or (
            (r.status_code is null or (r.status_code in (429, 503) and r.retry_after <> ''))
            and q.leased
            and q.due_at > p_now + interval '5 seconds'
          )
        )
      offset 0
    ) as q
    cross join lateral (
      select w.id
      from webhookpub.webhooks as w
      where w.id = q.webhook_id
        and w.enabled
        and (r.status_code is not null or w.circuit_retry_at <= p_now)
      offset 0
    ) as w
  ),
  locked as materialized (
    select w.id
    from webhookpub.webhooks as w
    where w.id = any (array(select t.webhook_id from told as t))
    for no key update of w skip locked
  )
  select coalesce(array_agg(t.delivery_id) filter (where l.id is null), '{}')
  from told as t
  left join locked as l on l.id = t.webhook_id;
$$;

comment on function webhookpub.hold_answers (text[], integer[], text[], timestamptz) is
  'Locks the webhooks that have to learn of these answers; returns the deliveries of those that somebody else holds.';
--! EndIncluded 4_record/hold_answers.sql
--! Included 4_record/hold_turns.sql
-- Locks whose turn it is after these deliveries, which are about to end.
--
-- Called by  webhookpub.put_off_answers, webhookpub.park_lost, which have locked them, with the
--            ordering keys whose turn they have.
-- Locks      the next one of each, skipping what somebody else holds.
-- Returns    where those are in the queue; and the deliveries of which somebody holds the next:
--            they must not end yet, for it would wait for ever.
--
-- A statement of its own, after those that lock: it must see what came behind them meanwhile.

create or replace function webhookpub.hold_turns (
  p_delivery_ids text[],
  p_webhook_ids text[],
  p_ordering_keys text[],
  out turns tid[],
  out held_ids text[]
)
  language sql
  volatile
as $$
  select
    array_agg(l.at) filter (where l.at is not null),
    array_agg(p.id) filter (where l.at is null)
  from unnest(p_delivery_ids, p_webhook_ids, p_ordering_keys) as p (id, webhook_id, ordering_key)
  -- Each of these is one look; "offset 0" keeps the planner from joining.
  cross join lateral (
    select q.ctid as at
    from webhookpub.queue as q
    where q.webhook_id = p.webhook_id and q.ordering_key = p.ordering_key
      and q.turn_at is not null
    order by q.turn_at, q.delivery_id
    limit 1
  ) as n
  left join lateral (
    select q.ctid as at
    from webhookpub.queue as q
    where q.ctid = n.at and q.turn_at is not null
    for update skip locked
    offset 0
  ) as l on true;
$$;

comment on function webhookpub.hold_turns (text[], text[], text[]) is
  'Locks what comes next after these deliveries by their ordering keys, and says where it is; and the deliveries of which somebody else holds it.';
--! EndIncluded 4_record/hold_turns.sql
--! Included 4_record/judge_answers.sql
-- Decides what each answer means for its delivery.
--
-- Called by  webhookpub.record_attempts.
-- Locks      those deliveries in the queue, skipping what somebody else holds: only whoever holds
--            its row there changes a delivery's history.
-- Returns    the answers whose deliveries exist, successes first, each with its verdict.
--
-- An answer counts if it is to the latest attempt of a pending delivery; a late 2xx counts as
-- long as the delivery is pending. Anything else changes nothing, so that state never goes back.

create or replace function webhookpub.judge_answers (
  p_delivery_ids text[],
  p_attempts integer[],
  p_started_at timestamptz[],
  p_durations_ms integer[],
  p_outcomes text[],
  p_status_codes integer[],
  p_errors text[],
  p_retry_afters text[],
  p_held text[],
  p_now timestamptz
)
  returns webhookpub.answer[]
  language sql
  volatile
as $$
  select array_agg(
    row(
      r.place, r.delivery_id, r.attempt, r.started_at, r.duration_ms, r.outcome, r.status_code,
      r.error, h.webhook_id, h.at, q.at,
      case
        when h.status <> 'pending' then 'late'
        when q.at is null then 'held'
        when r.succeeded then 'delivered'
        when not q.leased or r.attempt <> q.attempt then 'late'
        when r.status_code = 410 or q.attempt - q.lost >= h.max_attempts then 'failed'
        else 'pending'
      end,
      q.attempt, q.lost, q.last_attempt_at,
      case when not r.succeeded then webhookpub.next_attempt_at(
        w.retry_schedule,
        q.attempt - q.lost,
        r.pause,
        p_now
      ) end,
      r.pause,
      q.suspicion > 1, q.ordering_key
    )::webhookpub.answer
    order by r.succeeded desc
  )
  from (
    select
      r.place, r.delivery_id, r.attempt, r.started_at, r.duration_ms, r.outcome, r.status_code,
      s.succeeded,
      case when r.status_code in (429, 503) then webhookpub.retry_after(r.retry_after, p_now) end
        as pause,
      case when not s.succeeded then coalesce(r.error, 'HTTP ' || r.status_code) end as error
    from unnest(
      p_delivery_ids, p_attempts, p_started_at, p_durations_ms, p_outcomes,
      p_status_codes, p_errors, p_retry_afters
    ) with ordinality as r (
      delivery_id, attempt, started_at, duration_ms, outcome,
      status_code, error, retry_after, place
    )
    cross join lateral (select r.status_code between 200 and 299 is true) as s (succeeded)
    offset 0
  ) as r
  -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select h.ctid as at, h.webhook_id, h.max_attempts, h.status
    from webhookpub.delivery_history as h
    where h.id = r.delivery_id
    offset 0
  ) as h
  left join lateral (
    select w.retry_schedule
    from webhookpub.webhooks as w
    where w.id = h.webhook_id and not r.succeeded
    offset 0
  ) as w on true
  left join lateral (
    select q.ctid as at, q.attempt, q.lost, q.leased, q.suspicion, q.last_attempt_at,
      case when q.turn_at is null then q.ordering_key end as ordering_key
    from webhookpub.queue as q
    where q.delivery_id = r.delivery_id
      and h.status = 'pending'
      and r.delivery_id <> all (p_held)
    for update skip locked
    offset 0
  ) as q on true;
$$;

comment on function webhookpub.judge_answers
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[],
   timestamptz) is
  'Locks the deliveries of these answers and decides what each means.';
--! EndIncluded 4_record/judge_answers.sql
--! Included 4_record/keep_attempts.sql
-- Keeps answers as attempts, each once, however often it was told.
--
-- Called by  webhookpub.record_attempts.
--
-- "on conflict" looks into the index before each row, and confirms each by a second record of the
-- WAL. An answer that was told before is rare: only then are they inserted in that way. The numbers
-- of the first try are not used then, so that attempts_total counts a batch twice.
--
-- What was answered may be long, and comes by itself: each step copies all that it is given.

create or replace function webhookpub.keep_attempts (
  p_answers webhookpub.answer[],
  p_response_bodies text[]
)
  returns void
  language plpgsql
  volatile
as $$
begin
  insert into webhookpub.attempts
    (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error, response_body,
     webhook_id)
  select
    a.delivery_id, a.attempt, a.started_at, a.duration_ms, a.outcome, a.status_code, a.error,
    p_response_bodies[a.place], a.webhook_id
  from unnest(p_answers) as a
  where a.verdict <> 'held';
exception when unique_violation then
  insert into webhookpub.attempts
    (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error, response_body,
     webhook_id)
  select
    a.delivery_id, a.attempt, a.started_at, a.duration_ms, a.outcome, a.status_code, a.error,
    p_response_bodies[a.place], a.webhook_id
  from unnest(p_answers) as a
  where a.verdict <> 'held'
  on conflict do nothing;
end;
$$;

comment on function webhookpub.keep_attempts (webhookpub.answer[], text[]) is
  'Keeps these answers as attempts, but those that were kept before and those that are held.';
--! EndIncluded 4_record/keep_attempts.sql
--! Included 4_record/next_turns.sql
-- Locks whose turn it is after deliveries that have ended: the earliest with the same ordering key.
--
-- Called by  webhookpub.end_deliveries.
-- Locks      those, waiting for whoever holds them; where nothing may wait, webhookpub.hold_turns
--            does so.
-- Returns    where they are in the queue.
--
-- A deleted webhook has no turns: all that is pending of it is cancelled.

create or replace function webhookpub.next_turns (
  p_webhook_ids text[],
  p_ordering_keys text[]
)
  returns tid[]
  language sql
  volatile
as $$
  select array_agg(n.at)
  from unnest(p_webhook_ids, p_ordering_keys) as p (webhook_id, ordering_key)
  cross join lateral (
    select from webhookpub.webhooks as w where w.id = p.webhook_id and w.deleted_at is null offset 0
  ) as w
  cross join lateral (
    select q.ctid as at
    from webhookpub.queue as q
    where q.webhook_id = p.webhook_id and q.ordering_key = p.ordering_key
      and q.turn_at is not null
    order by q.turn_at, q.delivery_id
    limit 1
    for update
  ) as n;
$$;

comment on function webhookpub.next_turns (text[], text[]) is
  'Locks the next delivery of each of these webhooks and ordering keys, and says where it is.';
--! EndIncluded 4_record/next_turns.sql
--! Included 4_record/pass_turns.sql
-- Makes due whose turn it is.
--
-- Called by  webhookpub.follow_answers, webhookpub.end_deliveries, which have ended what was before.
-- Returns    their webhooks.
--
-- They are locked already, by webhookpub.hold_turns or webhookpub.next_turns, so they are where they
-- were.

create or replace function webhookpub.pass_turns (
  p_turns tid[],
  p_now timestamptz
)
  returns text[]
  language sql
  volatile
as $$
  with passed as (
    update webhookpub.queue as q
    set turn_at = null, due_at = p_now
    where q.ctid = any (p_turns)
    returning q.webhook_id
  )
  select array_agg(distinct p.webhook_id) from passed as p;
$$;

comment on function webhookpub.pass_turns (tid[], timestamptz) is
  'Makes due the deliveries at these places of the queue, whose turn it is; returns their webhooks.';
--! EndIncluded 4_record/pass_turns.sql
--! Included 4_record/publish_delivery_failed.sql
-- Tells a user's webhooks that deliveries ended without success.
--
-- Called by  webhookpub.follow_answers, webhookpub.park_lost, in the transaction that ends them.
--
-- Never about a delivery of a webhook.* event: that would go on for ever. Nor about a test:
-- whoever made it looks at it. Best effort: a catalog without the type must not keep an
-- answer from being recorded.

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
  from webhookpub.delivery_history as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.id = any (p_delivery_ids)
    and d.status = 'failed'
    and d.event_type not like 'webhook.%'
    and starts_with(d.replay_id, 'test_') is not true;
$$;

comment on function webhookpub.publish_delivery_failed (text[]) is
  'Publishes webhook.delivery_failed for each of these deliveries, but never about a webhook.* event or a test.';
--! EndIncluded 4_record/publish_delivery_failed.sql
--! Included 4_record/put_back_deliveries.sql
-- Moves deliveries whose answers were no success to their next attempt.
--
-- Called by  webhookpub.record_attempts, which has locked them in the queue.

create or replace function webhookpub.put_back_deliveries (
  p_answers webhookpub.answer[]
)
  returns void
  language sql
  volatile
as $$
  update webhookpub.queue as q
  set
    leased = false,
    suspicion = 0,
    due_at = a.due_at,
    last_status_code = a.status_code,
    last_error = a.error
  from (
    select a.* from unnest(p_answers) as a where a.verdict = 'pending' offset 0
  ) as a
  where q.ctid = a.queue_at;
$$;

comment on function webhookpub.put_back_deliveries (webhookpub.answer[]) is
  'Moves the deliveries of these answers that have a next attempt to it.';
--! EndIncluded 4_record/put_back_deliveries.sql
--! Included 4_record/put_off_answers.sql
-- Puts off the answers that would end a delivery of an ordered webhook while somebody holds the next
-- one with its ordering key.
--
-- Called by  webhookpub.record_attempts.
-- Locks      the next ones (webhookpub.hold_turns).
-- Returns    all answers, those with the verdict "held"; and where the next ones are in the queue.

create or replace function webhookpub.put_off_answers (
  p_answers webhookpub.answer[],
  out answers webhookpub.answer[],
  out turns tid[]
)
  language plpgsql
  volatile
as $$
declare
  v_held_ids text[];
begin
  select h.turns, h.held_ids into turns, v_held_ids
  from (
    select
      array_agg(a.delivery_id) as ids, array_agg(a.webhook_id) as webhook_ids,
      array_agg(a.ordering_key) as ordering_keys
    from unnest(p_answers) as a
    where a.ordering_key is not null and a.verdict in ('delivered', 'failed')
  ) as a
  cross join lateral webhookpub.hold_turns(a.ids, a.webhook_ids, a.ordering_keys) as h;
  answers := p_answers;
  if v_held_ids is not null then
    for i in 1 .. cardinality(answers) loop
      if answers[i].delivery_id = any (v_held_ids) then
        answers[i].verdict := 'held';
      end if;
    end loop;
  end if;
end;
$$;

comment on function webhookpub.put_off_answers (webhookpub.answer[]) is
  'These answers, those put off that end a delivery while somebody holds whose turn it is next; and where those turns are.';
--! EndIncluded 4_record/put_off_answers.sql
--! Included 4_record/rate_webhooks.sql
-- Keeps what answers say of their webhooks' health, where that changes.
--
-- Called by  webhookpub.record_attempts.
-- Locks      those webhooks, skipping what somebody else holds.
--
-- It is approximate: what answers say (last_delivered_at, failing_since, failures, the circuit) is
-- lost while somebody else holds the webhook, be it another record. Later answers say it again: a
-- circuit may open or close some attempts late. None is disabled because of that
-- (webhookpub.disable_failing). What would send requests that nobody wants is told later instead
-- (webhookpub.hold_answers).
--
-- A receiver that answers 429 or 503 with Retry-After is left alone until then, an hour at a time
-- at most: what waits for it burns no attempt (webhookpub.requests_allowed).
--
-- A webhook's circuit opens when too many of its attempts in a row got no HTTP answer
-- (webhookpub.circuit_pause), and closes with the first one, whatever its status.

create or replace function webhookpub.rate_webhooks (
  p_answers webhookpub.answer[],
  p_now timestamptz
)
  returns void
  language plpgsql
  volatile
as $$
declare
  v_min_failures constant integer := (
    select s.auto_disable_min_failures from webhookpub.settings as s
  );
begin
  update webhookpub.webhooks as w
  set
    last_delivered_at = case when c.succeeded then p_now else w.last_delivered_at end,
    failing_since = case when not c.succeeded then coalesce(w.failing_since, p_now) end,
    failures = case when c.succeeded then 0 else w.failures + c.attempts end,
    unanswered = c.unanswered,
    circuit_opened_at =
      case when c.pause is not null then coalesce(w.circuit_opened_at, p_now) end,
    circuit_retry_at = case
      when c.unanswered = w.unanswered then w.circuit_retry_at
      else p_now + c.pause
    end,
    paused_until = greatest(w.paused_until, p_now + c.asked_pause)
  from (
    select
      w.at, h.succeeded, h.attempts, h.asked_pause, u.unanswered,
      webhookpub.circuit_pause(u.unanswered) as pause
    from (
      select
        a.webhook_id,
        bool_or(a.verdict = 'delivered') as succeeded,
        -- One may have been told twice.
        count(distinct a.delivery_id) as attempts,
        bool_or(a.outcome = 'responded') as answered,
        -- Not least() alone: that takes a null for the hour.
        max(case when a.pause is not null then least(a.pause, interval '1 hour') end)
          as asked_pause
      from unnest(p_answers) as a
      where a.verdict in ('delivered', 'failed', 'pending')
      group by a.webhook_id
    ) as h
    -- One look into an index; "offset 0" keeps the planner from joining.
    cross join lateral (
      select w.ctid as at, w.unanswered, w.circuit_opened_at, w.circuit_retry_at
      from webhookpub.webhooks as w
      where w.id = h.webhook_id
        and (
          case
            when h.succeeded then
              w.failing_since is not null
              or w.last_delivered_at is null
              or w.last_delivered_at < p_now - interval '10 seconds'
            else w.failing_since is null or w.failures < v_min_failures
          end
          or case
            when h.answered then w.unanswered > 0
            else w.circuit_opened_at is null or w.circuit_retry_at <= p_now
          end
          or h.asked_pause is not null
        )
      for no key update skip locked
      offset 0
    ) as w
    cross join lateral (
      -- While a circuit is open, only a probe counts, and what is as late as one.
      select case
        when h.answered then 0
        when w.circuit_opened_at is null then w.unanswered + h.attempts
        when w.circuit_retry_at <= p_now then w.unanswered + 1
        else w.unanswered
      end::integer as unanswered
      offset 0
    ) as u
    offset 0
  ) as c
  where w.ctid = c.at;
end;
$$;

comment on function webhookpub.rate_webhooks (webhookpub.answer[], timestamptz) is
  'Keeps what these answers say of their webhooks'' health and circuits, where it changes.';
--! EndIncluded 4_record/rate_webhooks.sql
--! Included 4_record/record_attempts.sql
-- Records what came back, and decides what becomes of each delivery.
--
-- Called by  the deliverer of a worker, for many requests at once; safe to repeat.
-- Locks      the deliveries in the queue; webhooks only when their health changes. What somebody
--            else holds is skipped, never waited for: one application that leaves a transaction
--            open must not keep the answers of all others from being recorded.
-- Returns    the deliveries whose answers have to be told again, for somebody holds them; and
--            the webhooks for which something is due now that what was before it has ended.
--
-- Every answer is kept as an attempt. A delivery that has ended leaves the queue and is written
-- to the history, once; one with a next attempt changes in the queue alone.
--
-- From few answers to few rows, by one look into an index or by where they are, which no plan
-- can turn into reading a table through, whatever stale statistics say: there is only this one
-- plan for any number, and none of its steps looks at all answers for each answer.

create or replace function webhookpub.record_attempts (
  p_delivery_ids text[],
  p_attempts integer[],
  p_started_at timestamptz[],
  p_durations_ms integer[],
  p_outcomes text[],
  p_status_codes integer[],
  p_errors text[],
  p_response_bodies text[],
  p_retry_afters text[],
  out held_ids text[],
  out ready_webhook_ids text[]
)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_held text[] := '{}';
  v_answers webhookpub.answer[];
  v_turns tid[];
  v_is_plain boolean;
begin
  -- No status is no answer.
  if exists (
    select from unnest(p_status_codes) as s (code) where s.code is null or s.code in (410, 429, 503)
  ) then
    v_held := webhookpub.hold_answers(p_delivery_ids, p_status_codes, p_retry_afters, v_now);
  end if;
  v_answers := webhookpub.judge_answers(
    p_delivery_ids, p_attempts, p_started_at, p_durations_ms, p_outcomes, p_status_codes,
    p_errors, p_retry_afters, v_held, v_now
  );
  -- Most are nothing but delivered: that is all there is to do then.
  v_is_plain := not exists (
    select
    from unnest(v_answers) as a
    where a.verdict <> 'delivered' or a.ordering_key is not null or a.suspected
  );
  if not v_is_plain then
    select p.answers, p.turns into v_answers, v_turns from webhookpub.put_off_answers(v_answers) as p;
  end if;
  perform webhookpub.keep_attempts(v_answers, p_response_bodies);
  perform webhookpub.apply_verdicts(v_answers, v_now);
  perform webhookpub.rate_webhooks(v_answers, v_now);
  held_ids := '{}';
  if not v_is_plain then
    perform webhookpub.put_back_deliveries(v_answers);
    select f.held_ids, f.ready_webhook_ids into held_ids, ready_webhook_ids
    from webhookpub.follow_answers(v_answers, v_turns, v_now) as f;
  end if;
end;
$$;

comment on function webhookpub.record_attempts
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[]) is
  'Records answers (parallel arrays) and moves each delivery to delivered, failed or its next attempt; returns those that somebody holds, for later, and the webhooks for which a turn has passed on.';
--! EndIncluded 4_record/record_attempts.sql
--! Included 5_retry/add_deliver_jobs.sql
-- Makes sure that each of these webhooks has a job that will look for its due deliveries.
--
-- Called by  webhookpub.fan_out, webhookpub.wake_deliveries, and steering functions.
-- Locks      the right to add jobs of these webhooks, until the transaction ends; then
--            their job rows, those that are there and those that are new. Skips whatever
--            somebody else holds of it.
--
-- A job that has been waiting for a while goes on waiting: workers are busy, and it will
-- find what is new. Without that each batch would rewrite the jobs of all webhooks, and
-- each look at a key would wade through the versions of before. A job of this instant is
-- renewed: else a worker could take it before what it is for has been committed. If one
-- takes an old one just now, the next tick, a second later, adds another; only what was
-- committed more than 30 s after it became due waits for the sweep.
--
-- A job that somebody holds is being taken or completed, many at once and in no order, or is
-- being added, beside jobs that were there. To wait for it could end in a deadlock, which no
-- worker outlives: it gets another beside it.
--
-- A transaction that sees a snapshot adds none: a job that has changed since would be an error
-- (40001) of whoever called, for a hint. The next tick adds it. Nor does anybody while nothing may
-- be sent: a worker would take the job in vain, and the next tick add another.

create or replace function webhookpub.add_deliver_jobs (
  p_webhook_ids text[]
)
  returns void
  language sql
  volatile
  -- Keys are looked up one by one, whatever stale statistics say, and by graphile-worker's
  -- index, whose collation is the database's.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
  with needed as materialized (
    select
      i.id,
      json_build_object('webhook_id', i.id, 'user_id', (
        -- Whose it is, so that a worker can share fairly.
        select w.user_id from webhookpub.webhooks as w where w.id = i.id
      )) as payload
    from (select distinct p.id from unnest(p_webhook_ids) as p (id)) as i
    where current_setting('transaction_isolation') = 'read committed' and webhookpub.delivery_is_on()
      and not exists (
        select
        from graphile_worker.jobs as j
        where j.key = i.id collate "default"
          and j.locked_at is null and j.attempts < j.max_attempts
          and j.run_at <= clock_timestamp()
          and j.updated_at < clock_timestamp() - interval '100 milliseconds'
      )
  ),
  own as materialized (
    select n.id, n.payload
    from needed as n
    -- Few locks, however many webhooks.
    where pg_try_advisory_xact_lock(2003006837, hashtext(n.id) & 255)
  ),
  ours as materialized (
    select j.key
    from graphile_worker._private_jobs as j
    where j.key = any (array(select w.id collate "default" from own as w))
    for update skip locked
  ),
  free as materialized (
    select w.id, w.payload
    from own as w
    where w.id in (select o.key collate "C" from ours as o)
      or not exists (select from graphile_worker.jobs as j where j.key = w.id collate "default")
  ),
  added as materialized (
    select j.key
    from graphile_worker.add_jobs(array(
      select row('webhook_deliver', f.payload, null, null, null, f.id, null, null)
        ::graphile_worker.job_spec
      from free as f
      order by f.id collate "C"
    )) as j
    where exists (select from free)
  ),
  -- add_jobs, too, leaves out a key whose job was taken in that very instant.
  missed as (
    select n.payload from needed as n where n.id not in (select a.key collate "C" from added as a)
  )
  select count(*)
  from missed as m
  cross join lateral graphile_worker.add_job('webhook_deliver', m.payload) as j;
$$;

comment on function webhookpub.add_deliver_jobs (text[]) is
  'Adds a webhook_deliver job for each of these webhooks, unless one waits already.';
--! EndIncluded 5_retry/add_deliver_jobs.sql
--! Included 5_retry/add_task_job.sql
-- Makes sure that a task which is not of one webhook has a job that waits.
--
-- Called by  webhookpub.wake.
-- Locks      the right to add it, until the transaction ends; then its job's row. Skips what
--            somebody else holds of it, who may keep it: the next tick, a second later, looks
--            again.

create or replace function webhookpub.add_task_job (
  p_task text,
  p_priority integer default 0
)
  returns void
  language plpgsql
  volatile
as $$
begin
  if exists (
      select
      from graphile_worker.jobs as j
      where j.key = p_task
        and j.locked_at is null
        and j.attempts < j.max_attempts
        and j.run_at <= clock_timestamp()
    )
    -- Those below 256 are of jobs of webhooks.
    or not pg_try_advisory_xact_lock(2003006837, 256 + (hashtext(p_task) & 255))
  then
    return;
  end if;
  perform from graphile_worker._private_jobs as j where j.key = p_task for update skip locked;
  if found or not exists (select from graphile_worker.jobs as j where j.key = p_task) then
    perform graphile_worker.add_job(p_task, job_key => p_task, priority => p_priority);
  end if;
end;
$$;

comment on function webhookpub.add_task_job (text, integer) is
  'Adds a job of this task, unless one waits already or somebody holds it.';
--! EndIncluded 5_retry/add_task_job.sql
--! Included 5_retry/circuit_pause.sql
-- Says how long a webhook is left alone that did not answer so many times in a row.
--
-- Called by  webhookpub.rate_webhooks.
-- Returns    null while its circuit stays closed; from the fifth on 10 s, doubled each
--            time, up to 5 min, with up to 10 % jitter either way.

create or replace function webhookpub.circuit_pause (
  p_unanswered integer
)
  returns interval
  language sql
  volatile
  parallel safe
return case
  when p_unanswered >= 5 then
    interval '1 second'
      * least(10 * 2 ^ least(p_unanswered - 5, 10), 300)
      * (0.9 + 0.2 * random())
end;

comment on function webhookpub.circuit_pause (integer) is
  'How long the circuit of a webhook is open after so many attempts in a row without an answer; null: not at all.';
--! EndIncluded 5_retry/circuit_pause.sql
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
--! Included 5_retry/due_suspects.sql
-- Picks the suspects that may be tried now. Two workers in a row were lost with each of them
-- under way: one may be what kills workers, the others only have been there. So at most a tenth
-- of them are tried at once, in the whole database: innocents are soon through. Those that
-- another worker is lost with are tried one by one, with none of their like beside them; what a
-- worker is lost with then is the culprit (webhookpub.park_lost).
--
-- Called by  webhookpub.lease_deliveries; webhookpub.wake_deliveries, webhookpub.wake_suspects:
--            for all webhooks (null), only to look.
-- Locks      the choice, until the transaction ends; who does not get it has no suspects.
-- Returns    their ids, and which webhooks they are of, or null; and whether it is one alone.

create or replace function webhookpub.due_suspects (
  p_webhook_ids text[],
  p_now timestamptz,
  out ids text[],
  out webhook_ids text[],
  out alone boolean
)
  language plpgsql
  volatile
as $$
declare
  v_size integer;
begin
  -- By an index that is empty but for bad days; "is true" keeps the planner from any other.
  if not exists (
      select
      from webhookpub.queue as q
      where q.leased and q.suspicion > 0 and (q.due_at <= p_now) is true
    )
    or (p_webhook_ids is not null and not pg_catalog.pg_try_advisory_xact_lock(2003006834, 3))
  then
    return;
  end if;
  select
    case
      when bool_or(q.suspicion = 3 and q.due_at > p_now) then 0
      when bool_or(q.suspicion = 2 and q.due_at <= p_now) then 1
      else (count(*) filter (where q.suspicion > 1 or q.due_at <= p_now) + 9) / 10
    end - count(*) filter (where q.suspicion > 1 and q.due_at > p_now),
    count(*) filter (where q.suspicion > 1 or q.due_at <= p_now) <= 10
      or bool_or(q.suspicion = 2 and q.due_at <= p_now)
  into v_size, alone
  from webhookpub.queue as q
  where q.leased and q.suspicion > 0;
  select array_agg(c.delivery_id), array_agg(distinct c.webhook_id) into ids, webhook_ids
  from (
    select q.delivery_id, q.webhook_id
    from webhookpub.queue as q
    cross join lateral (
      select
      from webhookpub.webhooks as w
      cross join lateral webhookpub.standing(w, p_now) as s
      where w.id = q.webhook_id and s.room > 0
      offset 0
    ) as w
    where q.leased and q.suspicion > 0 and q.suspicion < 3 and (q.due_at <= p_now) is true
      and (p_webhook_ids is null or q.webhook_id = any (p_webhook_ids))
    order by q.suspicion desc, q.due_at
    limit greatest(v_size, 0)
  ) as c;
end;
$$;

comment on function webhookpub.due_suspects (text[], timestamptz) is
  'The deliveries of these webhooks (null: of all) that may be tried now though two workers were lost with them, and whether it is one alone.';
--! EndIncluded 5_retry/due_suspects.sql
--! Included 5_retry/park_lost.sql
-- Gives deliveries up that three workers in a row, or more, were lost with, the last time with
-- none of their like beside them (webhookpub.due_suspects).
--
-- Called by  webhookpub.wake.
-- Locks      those deliveries, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.park_lost (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
as $$
declare
  v_ids text[];
  v_webhook_ids text[];
  v_ordering_keys text[];
  v_held text[];
begin
  select array_agg(l.delivery_id), array_agg(l.webhook_id), array_agg(l.ordering_key)
  into v_ids, v_webhook_ids, v_ordering_keys
  from (
    select
      q.delivery_id, q.webhook_id, case when q.turn_at is null then q.ordering_key end as ordering_key
    from webhookpub.queue as q
    where q.leased and q.suspicion > 2 and (q.due_at <= p_now) is true
    for update skip locked
  ) as l;
  if v_ids is null then
    return 0;
  end if;
  select h.held_ids into v_held
  from webhookpub.hold_turns(v_ids, v_webhook_ids, v_ordering_keys) as h;
  if v_held is not null then
    v_ids := array(select i.id from unnest(v_ids) as i (id) where i.id <> all (v_held));
  end if;
  update webhookpub.queue as q
  set
    lost = q.lost + 1,
    last_status_code = null,
    last_error = format('parked: its worker was lost %s times', q.lost + 1)
  where q.delivery_id = any (v_ids);
  perform webhookpub.end_deliveries(v_ids, 'failed');
  perform webhookpub.publish_delivery_failed(v_ids);
  return cardinality(v_ids);
end;
$$;

comment on function webhookpub.park_lost (timestamptz) is
  'Fails the deliveries that at least three workers in a row were lost with, the last time alone, and publishes webhook.delivery_failed for each; returns how many.';
--! EndIncluded 5_retry/park_lost.sql
--! Included 5_retry/retry_after.sql
-- Reads a Retry-After header: seconds or an HTTP date, in any of the three forms that
-- RFC 9110 has.
--
-- Called by  webhookpub.judge_answers.
-- Returns    how long to wait, at most 24 h; null when it says nothing that makes sense.

create or replace function webhookpub.retry_after (
  p_header text,
  p_now timestamptz
)
  returns interval
  language plpgsql
  stable
as $$
declare
  v_header constant text := pg_catalog.btrim(p_header, E' \t');
  v_at timestamptz;
begin
  if v_header ~ '^[0-9]+$' then
    return pg_catalog.make_interval(secs => least(v_header::numeric, 86400)::integer);
  end if;
  v_at := case
    when v_header ~ '^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT$'
      then pg_catalog.to_timestamp(
        pg_catalog.substr(v_header, 6, 20) || ' +00', 'DD Mon YYYY HH24:MI:SS TZH'
      )
    -- RFC 850. Two digits of a year that would be far ahead are long past: no pause at all.
    when v_header ~ '^[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9:]{8} GMT$'
      then pg_catalog.to_timestamp(
        pg_catalog.left(pg_catalog.split_part(v_header, ', ', 2), 18) || ' +00',
        'DD-Mon-YY HH24:MI:SS TZH'
      )
    -- asctime.
    when v_header ~ '^[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}$'
      then pg_catalog.to_timestamp(
        pg_catalog.substr(v_header, 5) || ' +00', 'Mon DD HH24:MI:SS YYYY TZH'
      )
  end;
  if v_at > p_now then
    return least(v_at - p_now, interval '24 hours');
  end if;
  return null;
exception when datetime_field_overflow or invalid_datetime_format then
  return null;
end;
$$;

comment on function webhookpub.retry_after (text, timestamptz) is
  'The pause that a Retry-After header asks for, up to 24 h; null when there is none.';
--! EndIncluded 5_retry/retry_after.sql
--! Included 5_retry/sweep_webhooks.sql
-- Picks the webhooks that the sweep comes to next: all those with pending deliveries, in the
-- order of their ids, so many at a time, whatever has crowded them out of what ticks look at.
--
-- Called by  webhookpub.wake_deliveries.
-- Locks      where the sweep is; a second one does nothing meanwhile. So all workers
--            together do one sweep.
-- Returns    them, or null. When it has come to the end it begins again 20 s later, and until
--            then it goes on four times a second; with p_at_once it does not wait.

create or replace function webhookpub.sweep_webhooks (
  p_at_once boolean,
  p_now timestamptz,
  p_limit integer default 2000
)
  returns text[]
  language plpgsql
  volatile
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_position text;
  v_webhook_ids text[];
begin
  select s.position into v_position
  from webhookpub.sweep as s
  -- Also if the clock was set back.
  where p_at_once or s.next_at not between p_now and p_now + interval '20 seconds'
  for update skip locked;
  if not found then
    return null;
  end if;
  -- From one webhook with pending deliveries to the next, by one look into the index.
  with recursive pending as (
    select min(q.webhook_id) as webhook_id, 1 as n
    from webhookpub.queue as q
    where q.webhook_id > v_position
    union all
    select
      (
        select min(q.webhook_id)
        from webhookpub.queue as q
        where q.webhook_id > p.webhook_id
      ),
      p.n + 1
    from pending as p
    where p.webhook_id is not null and p.n < p_limit
  )
  select array_agg(p.webhook_id), max(p.webhook_id) filter (where p.n = p_limit)
  into v_webhook_ids, v_position
  from pending as p
  where p.webhook_id is not null;
  update webhookpub.sweep as s
  set
    position = coalesce(v_position, ''),
    next_at = p_now
      + case when v_position is null then interval '20 seconds' else interval '250 milliseconds' end;
  return v_webhook_ids;
end;
$$;

comment on function webhookpub.sweep_webhooks (boolean, timestamptz, integer) is
  'The next webhooks with pending deliveries that the sweep looks at, or null: it comes to all of them, p_limit at a time, and begins again 20 s later.';
--! EndIncluded 5_retry/sweep_webhooks.sql
--! Included 5_retry/wake.sql
-- The tick: makes sure that whatever is due has a job, upkeep among it, which is due a minute
-- after its last round, by this clock and not by those of the workers.
--
-- Called by  every worker, once a second and by an awake fan-out every 100 ms or so, for the last
--            seconds only, and when it starts.
-- Locks      none that anybody waits for.

create or replace function webhookpub.wake (
  p_window interval default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- It runs each second with nothing to do: planning took four fifths of that.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
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
    perform webhookpub.add_task_job('webhook_fan_out', p_priority => -1);
  end if;
  -- Also if the clock was set back.
  if exists (
    select
    from webhookpub.upkeep as u
    where u.finished_at not between v_now - interval '1 minute' and v_now + interval '1 minute'
  ) then
    perform webhookpub.add_task_job('webhook_maintain');
  end if;
  perform webhookpub.park_lost(v_now);
  if webhookpub.delivery_is_on() then
    perform webhookpub.wake_deliveries(
      case when p_window < '100 years' then v_now - greatest(p_window, '0') else '-infinity' end
    );
  end if;
end;
$$;

comment on function webhookpub.wake (interval) is
  'Adds the jobs that are missing: upkeep once a minute, a fan-out for pending events, a delivery for each webhook with something that became due within the window (null: ever; then the sweep goes on at once).';
--! EndIncluded 5_retry/wake.sql
--! Included 5_retry/wake_deliveries.sql
-- Finds webhooks with due deliveries and room for a request, and wakes a worker: due
-- retries, expired leases, lost jobs and probes of open circuits are one and the same here.
--
-- Called by  webhookpub.wake.
-- Returns    how many webhooks were woken.
--
-- A tick looks at what became due last, and at no more of it than it can read in passing:
-- what it does not come to is found by the sweep, which looks at everything.

create or replace function webhookpub.wake_deliveries (
  p_since timestamptz
)
  returns bigint
  language plpgsql
  volatile
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_webhook_ids text[];
begin
  select array_agg(distinct q.webhook_id) into v_webhook_ids
  from (
    select q.webhook_id
    from webhookpub.queue as q
    where q.attempt >= 0 and q.due_at between p_since and v_now
    order by q.due_at desc
    limit 1000
  ) as q;
  -- What became due before a circuit's or a receiver's pause was over is older than that.
  select v_webhook_ids || array_agg(w.id) into v_webhook_ids
  from webhookpub.webhooks as w
  where w.enabled and greatest(w.circuit_retry_at, w.paused_until) between p_since and v_now;
  -- And so is what was lost and waits to be tried.
  select v_webhook_ids || s.webhook_ids into v_webhook_ids
  from webhookpub.due_suspects(null, v_now) as s;
  v_webhook_ids := v_webhook_ids || webhookpub.sweep_webhooks(p_since = '-infinity', v_now);

  select array_agg(w.id) into v_webhook_ids
  from (select distinct i.id from unnest(v_webhook_ids) as i (id)) as p
  -- One by one, by one look into each index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select w.id
    from webhookpub.webhooks as w
    cross join lateral webhookpub.standing(w, v_now) as s
    where w.id = p.id and w.enabled
      -- Its job waits already, which is all that most need while there is much to do; or a worker
      -- has just taken it, and will look.
      and not exists (
        select
        from graphile_worker.jobs as j
        where j.key = p.id collate "default"
          and (
            j.locked_at > v_now - interval '2 seconds'
            or (
              j.locked_at is null
              and j.attempts < j.max_attempts
              and j.run_at <= v_now
              and j.updated_at < v_now - interval '100 milliseconds'
            )
          )
      )
      and exists (
        select
        from webhookpub.queue as q
        where q.webhook_id = w.id and q.leased in (true, false) and q.due_at <= v_now
      )
      -- One that has as many requests under way as it may is left alone: with the next answer
      -- its worker comes back for more.
      and s.room > 0
    offset 0
  ) as w;
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
--! Included 5_retry/wake_suspects.sql
-- Wakes the webhooks whose suspects may be tried now.
--
-- Called by  webhookpub.follow_answers, when a suspect has been tried.
-- Locks      the webhooks' job rows (webhookpub.add_deliver_jobs). An application may have added
--            one in a transaction that it leaves open: it is not waited for, the tick will.

create or replace function webhookpub.wake_suspects (
  p_now timestamptz
)
  returns void
  language plpgsql
  volatile
  set lock_timeout = '50ms'
as $$
begin
  perform webhookpub.add_deliver_jobs(s.webhook_ids)
  from webhookpub.due_suspects(null, p_now) as s
  where s.webhook_ids is not null;
exception when lock_not_available then
  null;
end;
$$;

comment on function webhookpub.wake_suspects (timestamptz) is
  'Adds jobs for the webhooks whose deliveries may be tried now though two workers were lost with them.';
--! EndIncluded 5_retry/wake_suspects.sql
--! Included 6_maintain/cancel_deleted.sql
-- Cancels deliveries that a fan-out made while their webhook was being deleted.
--
-- Called by  webhookpub.maintain.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.cancel_deleted (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
  with pending as materialized (
    select q.delivery_id
    from webhookpub.webhooks as w
    cross join lateral (
      select q.delivery_id
      from webhookpub.queue as q
      where q.webhook_id = w.id
      for update skip locked
    ) as q
    -- The last chance is before it is removed.
    where w.deleted_at > p_now - interval '1 day'
      or w.deleted_at <= (
        select p_now - s.delivery_retention from webhookpub.settings as s
      )
  )
  select webhookpub.end_deliveries(
    array(select p.delivery_id from pending as p), 'cancelled'
  );
$$;

comment on function webhookpub.cancel_deleted (timestamptz) is
  'Cancels pending deliveries of deleted webhooks; returns how many.';
--! EndIncluded 6_maintain/cancel_deleted.sql
--! Included 6_maintain/create_partition.sql
-- Makes the partition of one day. Rows of that day that had to go to DEFAULT move there; there
-- are few of them, or webhookpub.settle_strays does it in another way.
--
-- Called by  webhookpub.create_partitions, webhookpub.settle_strays.
-- Locks      attaching is allowed beside inserts, but for those into DEFAULT. Where such may
--            come, which is for days that have begun or are about to, the whole table, so that
--            what is inserted meanwhile waits for its partition instead of being refused. It
--            gives up after 50 ms and is tried again in the next round.
-- Returns    whether it was made.

create or replace function webhookpub.create_partition (
  p_table regclass,
  p_day date
)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '50ms'
as $$
declare
  v_table constant text := (select c.relname from pg_class as c where c.oid = p_table);
  v_name constant text := v_table || to_char(p_day, '_YYYYMMDD');
begin
  if p_day <= (clock_timestamp() + interval '1 hour')::date then
    execute format('lock table only webhookpub.%I in access exclusive mode', v_table);
  end if;
  execute format(
    'create table webhookpub.%I (like webhookpub.%I including all)', v_name, v_table
  );
  -- Nobody reads a partition by itself: it would show the rows of everybody.
  execute format('alter table webhookpub.%I enable row level security', v_name);
  execute format(
    'comment on table webhookpub.%I is %L',
    v_name, format('%s of %s.', v_table, to_char(p_day, 'YYYY-MM-DD'))
  );
  execute format(
    'with stray as (
       delete from webhookpub.%1$I as d where d.%2$I >= %4$L and d.%2$I < %5$L returning d.*
     )
     insert into webhookpub.%3$I select s.* from stray as s',
    v_table || '_default', webhookpub.partition_key(p_table), v_name,
    p_day::timestamptz, (p_day + 1)::timestamptz
  );
  execute format(
    'alter table webhookpub.%I attach partition webhookpub.%I for values from (%L) to (%L)',
    v_table, v_name, p_day::timestamptz, (p_day + 1)::timestamptz
  );
  return true;
exception when lock_not_available then
  raise warning 'partition % could not be made now: %', v_name, sqlerrm;
  return false;
end;
$$;

comment on function webhookpub.create_partition (regclass, date) is
  'Makes the partition of envelopes or attempts for a day (UTC), with what DEFAULT has of it; false when a lock it needs is not to be had now.';
--! EndIncluded 6_maintain/create_partition.sql
--! Included 6_maintain/create_partitions.sql
-- Makes the daily partitions of a table ahead of time; today's comes first. What had to go to
-- DEFAULT, because none was made for days, comes before that: attaching a partition reads all
-- that DEFAULT has, while everybody waits.
--
-- Called by  webhookpub.keep_partitions; the migration that makes the first ones.
-- Locks      those of webhookpub.create_partition and webhookpub.settle_strays.
-- Returns    how many were made, or steps towards one; at most p_limit. With a limit of one,
--            nobody waits for more than that.

create or replace function webhookpub.create_partitions (
  p_table regclass,
  p_days_ahead integer default 14,
  p_now timestamptz default clock_timestamp(),
  p_limit integer default null
)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
as $$
declare
  v_count bigint := 0;
  v_days date[];
  v_day date;
begin
  while webhookpub.has_strays(p_table) loop
    exit when v_count >= p_limit or not webhookpub.settle_strays(p_table, p_now);
    v_count := v_count + 1;
  end loop;

  v_days := array(
    select g.day::date
    from generate_series(p_now::date - 1, p_now::date + p_days_ahead, interval '1 day') as g (day)
    where not webhookpub.has_strays(p_table)
      and not exists (
        select
        from webhookpub.partitions_of(p_table) as p
        where g.day::date between p.first_day and p.last_day
      )
    order by g.day < p_now::date, g.day
    limit p_limit - v_count
  );
  foreach v_day in array v_days loop
    exit when not webhookpub.create_partition(p_table, v_day);
    v_count := v_count + 1;
  end loop;
  if v_count > 0 then
    -- Default privileges may have opened them.
    perform webhookpub.settle_privileges(p_quietly => true);
  end if;
  return v_count;
end;
$$;

comment on function webhookpub.create_partitions (regclass, integer, timestamptz, integer) is
  'Makes the daily partitions (UTC) of envelopes or attempts, from yesterday to p_days_ahead, after what has gathered in DEFAULT has found its place; returns how many steps it did.';
--! EndIncluded 6_maintain/create_partitions.sql
--! Included 6_maintain/delete_expired.sql
-- Removes a batch of events and ended deliveries whose time has come; never a pending one.
--
-- Called by  webhookpub.maintain.
-- Returns    how many of each.
--
-- Ids of deliveries are in the order of time: it walks them from where it was, so that a round
-- with nothing to do reads nothing. Once a day it begins anew, for what was pending then.

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
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
declare
  v_retention constant interval := (select s.delivery_retention from webhookpub.settings as s);
  -- No delivery is older than its id says; least() is for retentions longer than history.
  v_before constant text := left(
    webhookpub.delivery_id(greatest(p_now - least(v_retention, interval '1000 years'), 'epoch')),
    16
  );
  v_from text;
  v_ids text[];
begin
  delete from webhookpub.events as e
  where e.ctid = any (array(
    select x.ctid
    from (values ('processed'), ('no_match')) as s (status)
    cross join lateral (
      select e.ctid
      from webhookpub.events as e
      where e.status = s.status::webhookpub.event_status
        and e.pending_user_id is null
        and e.expires_at <= p_now
      order by e.status, e.pending_user_id, e.expires_at
      limit p_limit
      for update skip locked
    ) as x
    limit p_limit
  ));
  get diagnostics events = row_count;

  update webhookpub.expiry as x
  set
    position = case when x.restart_at > p_now then x.position else '' end,
    restart_at = case when x.restart_at > p_now then x.restart_at else p_now + interval '1 day' end
  returning x.position into v_from;
  select array_agg(h.id) into v_ids
  from (
    select h.id
    from webhookpub.delivery_history as h
    where h.id > v_from and h.id < v_before
    order by h.id
    limit p_limit
  ) as h;
  deliveries := 0;
  if v_ids is null then
    return;
  end if;
  update webhookpub.expiry as x set position = v_ids[cardinality(v_ids)];
  delete from webhookpub.delivery_history as h
  where h.ctid = any (array(
    select h.ctid
    from webhookpub.delivery_history as h
    where h.id = any (v_ids) and h.status <> 'pending' and h.created_at + v_retention <= p_now
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
--! Included 6_maintain/delete_webhooks.sql
-- Removes webhooks that were deleted so long ago that nothing of their history is kept.
--
-- Called by  webhookpub.maintain.
-- Locks      those webhooks, skipping those that somebody else holds.
-- Returns    how many, up to p_limit.

create or replace function webhookpub.delete_webhooks (
  p_limit integer default 1000,
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
declare
  -- Attempts leave by the day, so some are kept for up to a day longer.
  v_before constant timestamptz := p_now - interval '1 day' - (
    select greatest(s.event_retention, s.delivery_retention, s.attempt_retention)
    from webhookpub.settings as s
  );
  v_count bigint;
begin
  with deleted as (
    delete from webhookpub.webhooks as w
    where w.ctid = any (array(
      select w.ctid
      from webhookpub.webhooks as w
      where w.deleted_at <= v_before
        and not exists (
          select from webhookpub.delivery_history as h where h.webhook_id = w.id offset 0
        )
      order by w.deleted_at
      limit p_limit
      for update skip locked
    ))
    returning w.id
  ),
  -- Only now: whoever deletes a webhook may take long to commit, and leases write its pace.
  unpaced as (
    delete from webhookpub.paces as c
    where c.webhook_id = any (array(select d.id from deleted as d))
  )
  select count(*) into v_count from deleted as d;
  return v_count;
end;
$$;

comment on function webhookpub.delete_webhooks (integer, timestamptz) is
  'Removes up to p_limit webhooks that were deleted and have no history any more; returns how many.';
--! EndIncluded 6_maintain/delete_webhooks.sql
--! Included 6_maintain/disable_failing.sql
-- Disables webhooks that have only failed for too long.
--
-- Called by  webhookpub.maintain.
-- Locks      the webhooks, skipping those that somebody else holds, be it to record a
--            success: the next round looks again.
-- Returns    how many.
--
-- What failing_since says is approximate (webhookpub.record_attempts); attempts are not, so
-- they decide.

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
      and not exists (
        select
        from webhookpub.attempts as a
        where a.webhook_id = w.id
          and a.started_at > p_now - s.auto_disable_after
          and a.status_code between 200 and 299
        offset 0
      )
    for no key update of w skip locked
  ), 'failing');
$$;

comment on function webhookpub.disable_failing (timestamptz) is
  'Disables webhooks without a success, but enough failures, for settings.auto_disable_after.';
--! EndIncluded 6_maintain/disable_failing.sql
--! Included 6_maintain/drop_partitions.sql
-- Drops the oldest partition that nobody needs any more.
--
-- Called by  webhookpub.keep_partitions.
-- Locks      the partitioned table, for the instant of the drop; it gives up after 50 ms
--            and is tried again in the next round. One a round: the lock is held until
--            the round commits, and the next round follows soon.
-- Returns    how many were dropped: one or none.
--
-- A partition of envelopes stays as long as one of its events or a pending delivery needs it.

create or replace function webhookpub.drop_partitions (
  p_table regclass,
  p_before timestamptz
)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '50ms'
as $$
declare
  v_table constant text := (select c.relname from pg_class as c where c.oid = p_table);
  v_name text;
  v_begin timestamptz;
  v_end timestamptz;
begin
  for v_name, v_begin, v_end in
    select p.name, p.first_day, p.last_day + 1
    from webhookpub.partitions_of(p_table) as p
    where p.last_day + 1 <= p_before
    order by p.first_day
  loop
    continue when v_table = 'envelopes'
      and webhookpub.envelopes_are_needed(v_begin, v_end);
    begin
      execute format('lock table webhookpub.%I in access exclusive mode', v_name);
      -- Whoever read an envelope before that, to replay it, has committed now.
      continue when v_table = 'envelopes'
        and webhookpub.envelopes_are_needed(v_begin, v_end);
      execute format('drop table webhookpub.%I', v_name);
      return 1;
    exception when lock_not_available then
      raise warning 'partition % could not be dropped now: %', v_name, sqlerrm;
      return 0;
    end;
  end loop;
  return 0;
end;
$$;

comment on function webhookpub.drop_partitions (regclass, timestamptz) is
  'Drops the oldest partition of envelopes or attempts that ends before p_before and that nothing needs; returns how many.';
--! EndIncluded 6_maintain/drop_partitions.sql
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
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
  select exists (
    select
    from webhookpub.queue as q
    cross join lateral (
      select h.event_created_at
      from webhookpub.delivery_history as h
      where h.id = q.delivery_id
      offset 0
    ) as h
    where h.event_created_at >= p_from and h.event_created_at < p_to
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
--! Included 6_maintain/expire_secrets.sql
-- Erases the secrets whose grace after a rotation has ended.
--
-- Called by  webhookpub.maintain.
-- Locks      those secrets, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.expire_secrets (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
as $$
declare
  v_count bigint;
begin
  delete from webhookpub.secrets as s
  where s.id = any (array(
    select x.id from webhookpub.secrets as x where x.expires_at <= p_now for update skip locked
  ));
  get diagnostics v_count = row_count;
  return v_count;
end;
$$;

comment on function webhookpub.expire_secrets (timestamptz) is
  'Erases the secrets whose grace has ended; returns how many.';
--! EndIncluded 6_maintain/expire_secrets.sql
--! Included 6_maintain/has_strays.sql
-- Says whether rows had to go to a table's DEFAULT partition.
--
-- Called by  webhookpub.create_partitions.

create or replace function webhookpub.has_strays (
  p_table regclass
)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_has_strays boolean;
begin
  execute format(
    'select exists (select from webhookpub.%I)',
    (select c.relname || '_default' from pg_class as c where c.oid = p_table)
  ) into v_has_strays;
  return v_has_strays;
end;
$$;

comment on function webhookpub.has_strays (regclass) is
  'Whether the DEFAULT partition of envelopes or attempts has rows.';
--! EndIncluded 6_maintain/has_strays.sql
--! Included 6_maintain/keep_partitions.sql
-- Drops a partition that has expired or makes one that is missing: one a round, for the locks of
-- one table are held until it commits, and with those of another it would wait for that, too.
--
-- Called by  webhookpub.maintain.
-- Locks      those of webhookpub.drop_partitions or webhookpub.create_partitions.
-- Returns    how many of each.

create or replace function webhookpub.keep_partitions (
  p_now timestamptz,
  out dropped bigint,
  out created bigint
)
  language plpgsql
  volatile
as $$
declare
  v_settings constant webhookpub.settings := (select s from webhookpub.settings as s);
begin
  created := 0;
  dropped := webhookpub.drop_partitions(
    'webhookpub.envelopes', p_now - v_settings.event_retention
  );
  if dropped = 0 then
    dropped := webhookpub.drop_partitions(
      'webhookpub.attempts', p_now - v_settings.attempt_retention
    );
  end if;
  if dropped = 0 then
    created := webhookpub.create_partitions('webhookpub.envelopes', p_limit => 1);
    if created = 0 then
      created := webhookpub.create_partitions('webhookpub.attempts', p_limit => 1);
    end if;
  end if;
end;
$$;

comment on function webhookpub.keep_partitions (timestamptz) is
  'Drops a partition of envelopes or attempts that has expired, or makes one; returns how many of each.';
--! EndIncluded 6_maintain/keep_partitions.sql
--! Included 6_maintain/lock_tables.sql
-- Locks the tables that a migration changes, all of them at once, and gives up soon.
--
-- Called by  migrations, before they change a table that is in use; migrate runs them again.
-- Locks      these tables, against everybody, until the migration ends. Whoever publishes waits
--            behind it, but is never what PostgreSQL ends because two wait for one another: that
--            takes deadlock_timeout, and by then this has given up.

create or replace function webhookpub.lock_tables (
  variadic p_tables regclass[]
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_deadlock constant interval := current_setting('deadlock_timeout')::interval;
  v_each constant integer :=
    greatest(1, extract(epoch from v_deadlock) * 800 / cardinality(p_tables));
begin
  -- For the rest of the transaction, too: it holds them while it waits for whatever else.
  perform set_config('lock_timeout', v_each::text, true);
  execute (
    select 'lock table ' || string_agg(t.name::text, ', ' order by t.number)
    from unnest(p_tables) with ordinality as t (name, number)
  );
end;
$$;

comment on function webhookpub.lock_tables (regclass[]) is
  'Locks tables for a migration, all at once and never waiting for long; the migration is to be run again if that fails.';
--! EndIncluded 6_maintain/lock_tables.sql
--! Included 6_maintain/maintain.sql
-- One round of upkeep. With nothing to do it costs almost nothing.
--
-- Called by  the task webhook_maintain, once a minute (webhookpub.wake) until nothing is left
--            to do; psql.
-- Locks      one advisory lock, so that rounds do not meet; a second one does nothing. No
--            row of an application's is waited for: what it holds is left to the next round.
--            A round that has made or dropped a partition holds up others until it commits:
--            if it is left open, PostgreSQL ends its session after 5 s.
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
  v_expired record;
  v_partitions record;
begin
  if not pg_try_advisory_xact_lock(2003006834, 1) then
    return;
  end if;
  return query values
    ('disable_failing', webhookpub.disable_failing(v_now)),
    ('cancel_deleted', webhookpub.cancel_deleted(v_now)),
    ('delete_failed_jobs', webhookpub.delete_failed_jobs(v_now)),
    ('expire_secrets', webhookpub.expire_secrets(v_now));

  v_expired := webhookpub.delete_expired(5000, v_now);
  return query values
    ('delete_events', v_expired.events),
    ('delete_deliveries', v_expired.deliveries),
    ('delete_webhooks', webhookpub.delete_webhooks(1000, v_now));

  v_partitions := webhookpub.keep_partitions(v_now);
  return query values
    ('drop_partitions', v_partitions.dropped),
    ('create_partitions', v_partitions.created);
  if v_partitions.dropped + v_partitions.created > 0 then
    perform set_config('idle_in_transaction_session_timeout', '5s', true);
  end if;
  update webhookpub.upkeep as u set finished_at = clock_timestamp();
end;
$$;

comment on function webhookpub.maintain () is
  'One round of upkeep: disables failing webhooks, removes what has expired, keeps the partitions. Returns what it did.';
--! EndIncluded 6_maintain/maintain.sql
--! Included 6_maintain/partition_key.sql
-- Names the column by which a table is partitioned.
--
-- Called by  webhookpub.create_partition, webhookpub.settle_strays.

create or replace function webhookpub.partition_key (
  p_table regclass
)
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select a.attname
  from pg_partitioned_table as p
  join pg_attribute as a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
  where p.partrelid = p_table;
$$;

comment on function webhookpub.partition_key (regclass) is
  'The column by which envelopes or attempts are partitioned.';
--! EndIncluded 6_maintain/partition_key.sql
--! Included 6_maintain/partitions_of.sql
-- Lists the partitions of a table and the days (UTC) that each is of. Most are of one; what
-- gathered in DEFAULT while none was made became one of many (webhookpub.swap_default).
--
-- Called by  webhookpub.create_partitions, webhookpub.drop_partitions, webhookpub.settle_strays.

create or replace function webhookpub.partitions_of (
  p_table regclass
)
  returns table (
    name text,
    first_day date,
    last_day date
  )
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select
    c.relname,
    to_date(substring(c.relname from '_([0-9]{8})(_[0-9]{8})?$'), 'YYYYMMDD'),
    to_date(right(c.relname, 8), 'YYYYMMDD')
  from pg_inherits as i
  join pg_class as c on c.oid = i.inhrelid
  where i.inhparent = p_table and c.relname ~ '_[0-9]{8}$'
  order by 2;
$$;

comment on function webhookpub.partitions_of (regclass) is
  'The partitions of envelopes or attempts, but for DEFAULT, and the first and last day of each.';
--! EndIncluded 6_maintain/partitions_of.sql
--! Included 6_maintain/settle_strays.sql
-- Does one step towards a place for the rows in DEFAULT, each a short transaction of its own.
--
-- Called by  webhookpub.create_partitions.
-- Locks      DEFAULT, or what webhookpub.create_partition and webhookpub.swap_default lock.
-- Returns    whether it did one; false when a lock it needs is not to be had now.
--
-- A few rows move to the partition of their day, a day a step. To move many would keep
-- everybody waiting: they stay where they are, and DEFAULT becomes their partition, of all days
-- between those that have one (webhookpub.swap_default). First of all, DEFAULT takes no other
-- rows from now on. It takes a week that is to come, for if somebody reads the table for hours
-- the swap has to wait as long.

create or replace function webhookpub.settle_strays (
  p_table regclass,
  p_now timestamptz
)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '50ms'
as $$
declare
  v_few constant bigint := 16 * 1024 * 1024; -- bytes, moved in some 50 ms
  v_key constant name := webhookpub.partition_key(p_table);
  v_today constant date := p_now::date;
  v_default constant text := (select c.relname || '_default' from pg_class as c where c.oid = p_table);
  v_first date;
  v_last date;
  v_begin date;
  v_next date;
  v_end date;
begin
  if webhookpub.swap_check(p_table) is not null then
    return webhookpub.swap_default(p_table);
  end if;
  execute format(
    'select min(d.%1$I)::date, max(d.%1$I)::date from webhookpub.%2$I as d', v_key, v_default
  ) into v_first, v_last;
  if v_first is null then
    return false;
  end if;
  select
    coalesce(max(p.last_day + 1) filter (where p.last_day < v_first), v_first - 1),
    coalesce(min(p.first_day) filter (where p.first_day > v_first), 'infinity')
  into v_begin, v_next
  from webhookpub.partitions_of(p_table) as p;
  if pg_table_size(format('webhookpub.%I', v_default)::regclass) <= v_few or v_last >= v_next then
    return webhookpub.create_partition(p_table, v_first);
  end if;
  v_end := least(v_next, greatest(
    v_last + 1, case when v_today >= v_begin and v_today < v_next then v_today + 7 end
  ));
  execute format(
    'alter table webhookpub.%I add constraint %I check (%3$I >= %4$L and %3$I < %5$L) not valid',
    v_default, v_default || to_char(v_begin, '"_is_of_"YYYYMMDD') || to_char(v_end - 1, '_YYYYMMDD'),
    v_key, v_begin::timestamptz, v_end::timestamptz
  );
  return true;
exception when lock_not_available then
  raise warning 'strays in % could not be settled now: %', p_table, sqlerrm;
  return false;
end;
$$;

comment on function webhookpub.settle_strays (regclass, timestamptz) is
  'Does one short step towards a partition for the rows in DEFAULT; false when it could not.';
--! EndIncluded 6_maintain/settle_strays.sql
--! Included 6_maintain/swap_check.sql
-- Finds the check that says of which days the rows in DEFAULT are: while it is there, DEFAULT
-- is about to become their partition.
--
-- Called by  webhookpub.settle_strays, webhookpub.swap_default.
-- Returns    null when there is none.

create or replace function webhookpub.swap_check (
  p_table regclass
)
  returns oid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select k.oid
  from pg_class as c
  join pg_class as d on d.relnamespace = c.relnamespace and d.relname = c.relname || '_default'
  join pg_constraint as k on k.conrelid = d.oid and k.conname ~ '_is_of_[0-9]{8}_[0-9]{8}$'
  where c.oid = p_table;
$$;

comment on function webhookpub.swap_check (regclass) is
  'The check of a DEFAULT partition that is about to become one of some days; null when it is not.';
--! EndIncluded 6_maintain/swap_check.sql
--! Included 6_maintain/swap_default.sql
-- Makes a table's DEFAULT partition, which has too many rows to move, the partition of their
-- days, and a new one DEFAULT. Whoever reads finds each row once, whenever that is.
--
-- Called by  webhookpub.settle_strays, which has said by a check of which days the rows are.
-- Locks      in the first step, which reads all of the rows, nothing that reading or writing
--            needs; in the second the whole table, for an instant. Gives up after 50 ms.
-- Returns    whether it did a step.

create or replace function webhookpub.swap_default (
  p_table regclass
)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set lock_timeout = '50ms'
as $$
declare
  v_table constant text := (select c.relname from pg_class as c where c.oid = p_table);
  v_check text;
  v_is_valid boolean;
  v_first date;
  v_last date;
begin
  select
    c.conname, c.convalidated,
    to_date(substring(c.conname from '_([0-9]{8})_[0-9]{8}$'), 'YYYYMMDD'),
    to_date(right(c.conname, 8), 'YYYYMMDD')
  into v_check, v_is_valid, v_first, v_last
  from pg_constraint as c
  where c.oid = webhookpub.swap_check(p_table);
  if v_check is null then
    return false;
  elsif not v_is_valid then
    execute format('alter table webhookpub.%I validate constraint %I', v_table || '_default', v_check);
    return true;
  end if;
  -- By the valid check, attaching knows that it need not look.
  execute format(
    'lock table only webhookpub.%1$I in access exclusive mode;
     alter table webhookpub.%1$I detach partition webhookpub.%2$I;
     alter table webhookpub.%2$I rename to %3$I;
     create table webhookpub.%2$I partition of webhookpub.%1$I default;
     alter table webhookpub.%2$I enable row level security;
     alter table webhookpub.%1$I attach partition webhookpub.%3$I for values from (%5$L) to (%6$L);
     alter table webhookpub.%3$I drop constraint %4$I;
     comment on table webhookpub.%2$I is %7$L;
     comment on table webhookpub.%3$I is %8$L',
    v_table, v_table || '_default', v_table || to_char(v_first, '_YYYYMMDD') || to_char(v_last, '_YYYYMMDD'),
    v_check, v_first::timestamptz, (v_last + 1)::timestamptz,
    'A safety net: it stays empty while upkeep runs.',
    format('%s of %s to %s.', v_table, to_char(v_first, 'YYYY-MM-DD'), to_char(v_last, 'YYYY-MM-DD'))
  );
  return true;
exception
  when lock_not_available then
    raise warning 'strays in % could not be settled now: %', p_table, sqlerrm;
    return false;
  when check_violation then
    -- One of another day came before the check did: all is looked at anew.
    execute format('alter table webhookpub.%I drop constraint %I', v_table || '_default', v_check);
    return true;
end;
$$;

comment on function webhookpub.swap_default (regclass) is
  'Does one step of making the DEFAULT partition of envelopes or attempts the partition of its days; false when it could not.';
--! EndIncluded 6_maintain/swap_default.sql
--! Included 7_inspect/explain_event.sql
-- Says for every webhook of an event's user whether it matches, and if not, why.
--
-- Called by  psql, as whoever asks: an event that its caller may not see is not there.
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
      message = format(
        'no such event: %s', coalesce(quote_literal(left(explain_event.event_id, 210)), 'null')
      ),
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
--! Included 7_inspect/event_log.sql
-- What was published and what became of it, newest first.
--
-- Called by  psql: one event, one user, or the last ones, with a limit.
--
-- Its order is that of two tables which have an index for it, or are small: the envelopes
-- of what was fanned out, and the events that wait for it. An index of events would be
-- paid for by every publisher.

create or replace view webhookpub.event_log
  with (security_invoker = true)
as
  select
    k.event_id, k.created_at, k.user_id, e.type as event_type, e.status,
    (
      select jsonb_object_agg(s.status, s.count)
      from (
        select d.status, count(*) as count
        from webhookpub.delivery_history as d
        where d.event_id = k.event_id
        group by d.status
      ) as s
    ) as deliveries,
    e.processed_at, e.attempts, e.last_error, e.retry_at, e.agent_id, e.conversation_id,
    e.labels, e.message_id, e.matched_webhook_ids, e.expires_at
  from (
    select n.event_id, n.created_at, n.user_id, 'pending'::webhookpub.event_status as kept
    from webhookpub.envelopes as n
    union all
    select e.id, e.created_at, e.user_id, e.status
    from webhookpub.events as e
  ) as k
  -- One look into an index for each; "offset 0" keeps the planner from joining.
  cross join lateral (
    select e.* from webhookpub.events as e where e.id = k.event_id offset 0
  ) as e
  where k.kept = 'pending'
  order by k.created_at desc;

comment on view webhookpub.event_log is
  'What was published and what became of it, newest first. Say which event or user, or add a limit.';
comment on column webhookpub.event_log.created_at is 'When it was published; the order of the view.';
comment on column webhookpub.event_log.status is
  'pending until fan-out; then processed (it matched) or no_match.';
comment on column webhookpub.event_log.deliveries is
  'How many of its deliveries, replays included, have which status; null: it has none.';
comment on column webhookpub.event_log.attempts is 'How often its fan-out was tried.';
comment on column webhookpub.event_log.last_error is 'Why its last fan-out failed.';
comment on column webhookpub.event_log.retry_at is
  'When fan-out tries it again after a failure.';
comment on column webhookpub.event_log.matched_webhook_ids is
  'The webhooks that it matched; explain_event says why not the others.';
comment on column webhookpub.event_log.expires_at is
  'When upkeep may remove it, unless it is pending.';
--! EndIncluded 7_inspect/event_log.sql
--! Included 7_inspect/backlog.sql
-- What waits and how long it has: one row.
--
-- Called by  psql; webhookpub.metrics.
--
-- Counting stops at 10,000, so that there is an answer when it matters most. Ordered by the
-- whole of an index: with row-level security, a constant status is not known to be one.

create or replace view webhookpub.backlog
  with (security_invoker = true)
as
  select
    e.count as events_pending,
    o.oldest_event,
    f.count as events_failing,
    case
      when p.count < 10000 then p.count
      -- What vacuum or analyze last found.
      else greatest(p.count, (
        select c.reltuples::bigint
        from pg_class as c
        where c.oid = 'webhookpub.queue'::regclass
      ))
    end as deliveries_pending,
    d.deliveries_due,
    d.oldest_due,
    l.deliveries_in_flight
  from (
    select count(*) as count
    from (
      select
      from webhookpub.events as e
      where e.status = 'pending'
      order by e.status, e.pending_user_id, e.expires_at
      limit 10000
    ) as w
  ) as e
  cross join (
    -- From one user to the next: each has its oldest event first.
    with recursive pending (user_id) as (
      (
        select e.pending_user_id
        from webhookpub.events as e
        where e.status = 'pending'
        order by e.status, e.pending_user_id
        limit 1
      )
      union all
      select (
        select e.pending_user_id
        from webhookpub.events as e
        where e.status = 'pending' and e.pending_user_id > p.user_id
        order by e.status, e.pending_user_id
        limit 1
      )
      from pending as p
      where p.user_id is not null
    )
    select statement_timestamp() - min(f.created_at) as oldest_event
    from (select p.user_id from pending as p limit 10000) as p
    cross join lateral (
      select e.created_at
      from webhookpub.events as e
      where e.status = 'pending' and e.pending_user_id = p.user_id
      order by e.status, e.pending_user_id, e.expires_at
      limit 1
    ) as f
  ) as o
  cross join (
    select count(w.last_error) as count
    from (
      select e.last_error
      from webhookpub.events as e
      where e.status = 'pending'
      order by e.status, e.pending_user_id, e.expires_at
      limit 1000
    ) as w
  ) as f
  cross join (
    select count(*) as count
    from (
      select
      from webhookpub.queue as q
      where q.attempt >= 0
      order by q.due_at
      limit 10000
    ) as w
  ) as p
  cross join (
    select
      count(*) as deliveries_due,
      statement_timestamp() - min(w.due_at) as oldest_due
    from (
      select q.due_at
      from webhookpub.queue as q
      -- One look into an index for each; "offset 0" keeps the planner from joining.
      cross join lateral (
        select
        from webhookpub.webhooks as w
        where w.id = q.webhook_id and w.enabled and w.circuit_opened_at is null
          and (w.paused_until > statement_timestamp()) is not true
        offset 0
      ) as w
      where q.attempt >= 0 and q.due_at <= statement_timestamp()
      order by q.due_at
      limit 10000
    ) as w
  ) as d
  cross join (
    select count(*) filter (where w.leased) as deliveries_in_flight
    from (
      select q.leased
      from webhookpub.queue as q
      where q.attempt >= 0 and q.due_at > statement_timestamp()
        -- The longest lease.
        and q.due_at <= statement_timestamp() + interval '45 seconds'
      order by q.due_at
      limit 10000
    ) as w
  ) as l;

comment on view webhookpub.backlog is
  'What waits and how long it has, in one row. Counts stop at 10,000, which then means that many or more.';
comment on column webhookpub.backlog.events_pending is
  'Events that wait for the fan-out.';
comment on column webhookpub.backlog.oldest_event is
  'How long the first of them has waited; more than a few seconds: no fan-out runs, or it fails.';
comment on column webhookpub.backlog.events_failing is
  'Of 1,000 of them, those whose fan-out has failed and is tried again: event_log.last_error says why.';
comment on column webhookpub.backlog.deliveries_pending is
  'Deliveries that have not ended; above 10,000 an estimate, from the last vacuum or analyze.';
comment on column webhookpub.backlog.deliveries_due is
  'Those that are due, of enabled webhooks whose circuits are closed and pauses over; they wait for a worker, for room, or for their pace.';
comment on column webhookpub.backlog.oldest_due is
  'How long the first of them has been due; more than a few seconds: no worker runs, or its webhook is slow.';
comment on column webhookpub.backlog.deliveries_in_flight is
  'Those that a worker has: their answers are waited for.';
--! EndIncluded 7_inspect/backlog.sql
--! Included 7_inspect/webhook_waits.sql
-- Says what a webhook waits for, by all that a lease goes by, of which its readers may not read all.
--
-- Called by  webhookpub.delivery_log, webhookpub.webhook_health.
-- Returns    null when what is due could go out now.

create or replace function webhookpub.webhook_waits (
  p_webhook_id text
)
  returns text
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case when webhookpub.delivery_is_on() then s.waits_for else 'delivery to be on' end
    from webhookpub.webhooks as w
    cross join lateral webhookpub.standing(w, statement_timestamp()) as s
    where w.id = p_webhook_id
  );
end;
$$;

comment on function webhookpub.webhook_waits (text) is
  'What a webhook waits for before anything of it is sent: an enabled webhook, a secret, a closed circuit, the end of a pause, its pace, room, or delivery to be on; null: nothing.';
--! EndIncluded 7_inspect/webhook_waits.sql
--! Included 7_inspect/delivery_log.sql
-- Every delivery and how it stands, newest first.
--
-- Called by  psql: of one event, one webhook or one user, or the last ones, with a limit.
--
-- Ids are in the order of time: for first deliveries that of their events, else their own.

create or replace view webhookpub.delivery_log
  with (security_invoker = true)
as
  select
    d.id as delivery_id, d.created_at, d.event_id, d.event_type, d.webhook_id, w.user_id,
    w.url, d.status,
    case
      when d.status <> 'pending' then null
      when q.leased and q.due_at > statement_timestamp() then 'answer'
      when q.turn_at is not null then 'turn'
      when q.due_at > statement_timestamp() and w.enabled then 'next attempt'
      else coalesce(
        -- Most often the webhook's row says it.
        webhookpub.webhook_waits_for(w, true, null, statement_timestamp()),
        webhookpub.webhook_waits(d.webhook_id),
        'worker'
      )
    end as waits_for,
    case
      when q.turn_at is not null then (
        select h.delivery_id
        from webhookpub.queue as h
        where h.webhook_id = q.webhook_id
          and h.ordering_key = q.ordering_key
          and h.turn_at is null
      )
    end as waits_for_delivery_id,
    coalesce(q.attempt, d.attempts) as attempts, d.max_attempts,
    case when q.turn_at is null then q.due_at end as next_attempt_at,
    coalesce(q.last_status_code, d.last_status_code) as last_status_code,
    coalesce(q.last_error, d.last_error) as last_error,
    coalesce(q.last_attempt_at, d.last_attempt_at) as last_attempt_at,
    d.delivered_at, d.replay_id, d.message_id,
    d.created_at + (select s.delivery_retention from webhookpub.settings as s) as expires_at
  from webhookpub.delivery_history as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  left join webhookpub.queue as q on q.delivery_id = d.id
  order by d.id desc;

comment on view webhookpub.delivery_log is
  'Every delivery and how it stands, newest first. Say which event, webhook or user, or add a limit; sorting it anew reads all of it.';
comment on column webhookpub.delivery_log.url is 'Where it goes, as the webhook has it now.';
comment on column webhookpub.delivery_log.status is
  'pending; then delivered, failed (no attempt left, or gone) or cancelled (webhook deleted, or skip).';
comment on column webhookpub.delivery_log.waits_for is
  'What a pending one waits for: an answer to its request, its turn, its next attempt (next_attempt_at), an enabled webhook, a secret, a closed circuit, the end of a pause that its receiver asked for, its pace, room among max_in_flight, delivery to be on, or a worker.';
comment on column webhookpub.delivery_log.waits_for_delivery_id is
  'Whose turn it is, while it waits for its own: the delivery before it with the same ordering key that has not ended.';
comment on column webhookpub.delivery_log.attempts is 'Attempts begun; the table attempts has each of them.';
comment on column webhookpub.delivery_log.next_attempt_at is
  'When it is due, or, while it waits for an answer, when that counts as lost.';
comment on column webhookpub.delivery_log.replay_id is
  'Null for the first delivery of an event; rpl_… or test_… for a replay or a test.';
comment on column webhookpub.delivery_log.expires_at is
  'When upkeep may remove it, unless it is pending.';
--! EndIncluded 7_inspect/delivery_log.sql
--! Included 7_inspect/diagnose.sql
-- What is wrong, and what to do about it; nothing, when all is well.
--
-- Called by  webhookpub doctor; psql; monitoring.
-- Returns    a row for each finding: topic, finding, and advice, mostly SQL.

create or replace function webhookpub.diagnose ()
  returns table (topic text, finding text, advice text)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select s.topic, s.finding, s.advice
  from webhookpub.diagnose_server() as s
  union all
  select w.topic, w.finding, w.advice
  from webhookpub.diagnose_work() as w
  union all
  select 'privileges', format('%s: %s on %s, from %s', p.who, p.privilege, p.object, p.origin), p.statement
  from webhookpub.check_privileges() as p;
$$;

comment on function webhookpub.diagnose () is
  'What is wrong, one finding a row, each with what to do about it. webhookpub doctor shows it.';
--! EndIncluded 7_inspect/diagnose.sql
--! Included 7_inspect/diagnose_server.sql
-- What is wrong with the server for webhookpub, and what to do about it.
--
-- Called by  webhookpub.diagnose.

create or replace function webhookpub.diagnose_server ()
  returns table (topic text, finding text, advice text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select v.topic, v.finding, v.advice
  from (
    select min(a.xact_start) as since, (array_agg(a.pid order by a.xact_start))[1] as pid
    from pg_stat_activity as a
    where a.datname = current_database() and a.pid <> pg_backend_pid()
  ) as x
  cross join (
    select min(p.prepared) as since, (array_agg(p.gid order by p.prepared))[1] as gid
    from pg_prepared_xacts as p
    where p.database = current_database()
  ) as p
  cross join (
    select count(distinct f.proname) as count
    from pg_proc as f
    where f.pronamespace = to_regnamespace('public')
      and f.proname in ('webhook_publish_tx', 'webhook_publish_best_effort_tx', 'webhook_publish')
  ) as f
  cross join (select round(100 * pg_notification_queue_usage())) as n (percent)
  cross join lateral (
    values
      (current_setting('server_version_num')::integer < 150000,
        'server', format('it is PostgreSQL %s', current_setting('server_version')),
        'PostgreSQL 15 or newer is needed'),
      (pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean,
        'server', 'it is read-only',
        'connect to the primary, for example with target_session_attrs=read-write'),
      (not exists (select from pg_extension as e where e.extname = 'pgcrypto'),
        'extension', 'pgcrypto is missing: nothing can be signed',
        'create extension pgcrypto'),
      (f.count < 3,
        'schema', 'functions for publishing are gone from public',
        'run webhookpub migrate'),
      (pg_notification_queue_usage() > 0.25,
        'notifications', format('the queue of NOTIFY is %s %% full', n.percent),
        'end who listens in an open transaction: webhookpub.sessions, by transaction_began_at'),
      (x.since < clock_timestamp() - interval '1 hour',
        'transactions', format('process %s has one open since %s: dead rows pile up', x.pid, x.since),
        format('select pg_terminate_backend(%s)', x.pid)),
      (p.since < clock_timestamp() - interval '1 hour',
        'transactions', format('%L is prepared since %s: dead rows pile up', p.gid, p.since),
        format('rollback prepared %L, or commit it', p.gid))
  ) as v (holds, topic, finding, advice)
  where v.holds;
$$;

comment on function webhookpub.diagnose_server () is
  'What is wrong with the server for webhookpub: its version, extension, NOTIFY queue, transactions.';
--! EndIncluded 7_inspect/diagnose_server.sql
--! Included 7_inspect/diagnose_work.sql
-- What is wrong with webhookpub's own work, and what to do about it.
--
-- Called by  webhookpub.diagnose.

create or replace function webhookpub.diagnose_work ()
  returns table (topic text, finding text, advice text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select v.topic, v.finding, v.advice
  from webhookpub.backlog as b
  cross join webhookpub.settings as s
  cross join webhookpub.upkeep as u
  cross join (
    select count(*) as failing, max(j.last_error) as last_error
    from graphile_worker.jobs as j
    where j.task_identifier in ('webhook_deliver', 'webhook_fan_out', 'webhook_maintain')
      and j.last_error is not null
  ) as j
  cross join (
    select make_interval(secs => m.value::float8) as ahead
    from webhookpub.metrics as m
    where m.name = 'partitions_ahead_seconds'
  ) as p
  cross join (
    select count(*) as count
    from pg_stat_activity as a
    where a.datname = current_database() and a.application_name = 'webhookpub'
  ) as w
  cross join lateral (
    select date_trunc('second', b.oldest_event), date_trunc('second', b.oldest_due)
  ) as a (event, delivery)
  cross join lateral (
    values
      (not s.publish_enabled,
        'publishing', 'it is off: publishers write nothing',
        'update webhookpub.settings set publish_enabled = true'),
      (not webhookpub.delivery_is_on(),
        'deliveries', 'they are off: nothing is sent',
        'update webhookpub.settings set deliver_enabled = true'),
      (exists (select from webhookpub.publish_failures),
        'publishing', 'the best-effort path has failures',
        'look at webhookpub.publish_failures, then call webhookpub.retry_publish_failures()'),
      (w.count = 0,
        'workers', 'none is connected',
        'start one'),
      (b.oldest_event > '1 minute',
        'fan-out', format('the oldest pending event has waited for %s', a.event),
        'is a worker connected, and does its log say why?'),
      (b.events_failing > 0,
        'fan-out', format('%s events fail to be fanned out', b.events_failing),
        'look at last_error of those that are pending in webhookpub.event_log'),
      (b.oldest_due > '5 minutes',
        'deliveries', format('the oldest due delivery has waited for %s', a.delivery),
        'look at in_flight in webhookpub.webhook_health: a slow receiver, or too few workers'),
      (j.failing > 0,
        'jobs', format('%s tasks fail: %s', j.failing, j.last_error),
        'look at last_error in webhookpub.jobs'),
      (u.finished_at < clock_timestamp() - interval '10 minutes',
        'upkeep', format('it was last done at %s', u.finished_at),
        'is a worker connected, and does its log say why?'),
      (p.ahead < '2 days',
        'upkeep', format('partitions end in %s', date_trunc('second', p.ahead)),
        'select * from webhookpub.maintain(), which a worker should call each minute')
  ) as v (holds, topic, finding, advice)
  where v.holds;
$$;

comment on function webhookpub.diagnose_work () is
  'What is wrong with the work of webhookpub: publishing, workers, fan-out, deliveries, jobs, upkeep.';
--! EndIncluded 7_inspect/diagnose_work.sql
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
--! Included 7_inspect/read_jobs.sql
-- Reads the jobs of webhookpub's tasks for those who may not look into graphile-worker's schema.
-- Of a host's own jobs nothing, and of none its payload.
--
-- Called by  the view webhookpub.jobs.

create or replace function webhookpub.read_jobs ()
  returns table (
    job_id text,
    task text,
    webhook_id text,
    run_at timestamptz,
    locked_at timestamptz,
    locked_by text,
    attempts integer,
    max_attempts integer,
    last_error text
  )
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select
    j.id::text,
    j.task_identifier,
    case when j.task_identifier = 'webhook_deliver' then j.key end,
    j.run_at,
    j.locked_at,
    j.locked_by,
    j.attempts::integer,
    j.max_attempts::integer,
    j.last_error
  from graphile_worker.jobs as j
  where j.task_identifier in ('webhook_deliver', 'webhook_fan_out', 'webhook_maintain');
$$;

comment on function webhookpub.read_jobs () is
  'The rows of webhookpub.jobs, for those who may not look into graphile-worker''s schema.';
--! EndIncluded 7_inspect/read_jobs.sql
--! Included 7_inspect/jobs.sql
-- The jobs of webhookpub's tasks, which graphile-worker has.
--
-- Called by  psql.

create or replace view webhookpub.jobs
  with (security_invoker = true)
as
  select
    j.job_id, j.task, j.webhook_id, j.run_at, j.locked_at, j.locked_by, j.attempts,
    j.max_attempts, j.last_error
  from webhookpub.read_jobs() as j;

comment on view webhookpub.jobs is
  'The jobs of webhookpub''s tasks, and no others: whether they run, and why they failed.';
comment on column webhookpub.jobs.job_id is 'graphile-worker''s id of it.';
comment on column webhookpub.jobs.task is 'webhook_fan_out, webhook_deliver or webhook_maintain.';
comment on column webhookpub.jobs.webhook_id is
  'Whose deliveries it is for; null: it is no webhook_deliver, or one that goes by another key.';
comment on column webhookpub.jobs.run_at is 'When it is due.';
comment on column webhookpub.jobs.locked_at is 'Since when a worker has it; null: none has.';
comment on column webhookpub.jobs.locked_by is 'Which.';
comment on column webhookpub.jobs.attempts is 'How often it was begun; above 1 it has failed.';
comment on column webhookpub.jobs.max_attempts is 'How often it may be; upkeep removes it then.';
--! EndIncluded 7_inspect/jobs.sql
--! Included 7_inspect/last_migration.sql
-- Says which migration was the last: a worker refuses a schema of another than it brings.
--
-- Called by  workers, when they start and whenever they are asked whether they are ready; migrate.

create or replace function webhookpub.last_migration ()
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select m.name || ' ' || m.hash
  from webhookpub.migrations as m
  order by m.name desc
  limit 1;
$$;

comment on function webhookpub.last_migration () is
  'The number and the hash of the last of webhookpub''s migrations that ran here.';
--! EndIncluded 7_inspect/last_migration.sql
--! Included 7_inspect/metrics.sql
-- Numbers for monitoring, one a row.
--
-- Called by  psql, exporters.
--
-- Counts of what waits stop at 10,000, as those of webhookpub.backlog do.

create or replace view webhookpub.metrics
  with (security_invoker = true)
as
  select m.name, m.labels, m.value
  from webhookpub.backlog as b
  cross join (
    select
      count(*) filter (where w.enabled) as enabled,
      count(*) filter (where not w.enabled) as disabled,
      count(*) filter (where w.enabled and w.failing_since is not null) as failing,
      count(*) filter (where w.enabled and w.circuit_opened_at is not null) as open
    from webhookpub.webhooks as w
    where w.deleted_at is null
  ) as w
  cross join (
    select count(*) as count
    from (select from webhookpub.publish_failures as f limit 10000) as f
  ) as f
  cross join webhookpub.attempts_recorded as a
  cross join (
    select extract(epoch from min(t.ends_at) at time zone 'UTC' - statement_timestamp()) as ahead
    from (
      select max(to_date(right(c.relname, 8), 'YYYYMMDD')) + interval '1 day' as ends_at
      from pg_inherits as i
      -- One look for each: a catalog grows with its host.
      cross join lateral (select c.relname from pg_class as c where c.oid = i.inhrelid offset 0) as c
      where i.inhparent in ('webhookpub.envelopes'::regclass, 'webhookpub.attempts'::regclass)
        and c.relname ~ '_[0-9]{8}$'
      group by i.inhparent
    ) as t
  ) as p
  cross join lateral (
    values
      ('publisher_lag_seconds', '{}'::jsonb, coalesce(extract(epoch from b.oldest_event), 0)),
      ('events_pending', '{}', b.events_pending),
      ('events_failing', '{}', b.events_failing),
      ('delivery_lag_seconds', '{}', coalesce(extract(epoch from b.oldest_due), 0)),
      ('deliveries_pending', '{}', b.deliveries_pending),
      ('deliveries_due', '{}', b.deliveries_due),
      ('deliveries_in_flight', '{}', b.deliveries_in_flight),
      ('attempts_total', '{}', case when a.is_called then a.last_value else 0 end),
      ('publish_failures', '{}', f.count),
      ('webhooks_enabled', '{}', w.enabled),
      ('webhooks_disabled', '{}', w.disabled),
      ('webhooks_failing', '{}', w.failing),
      ('webhooks_circuit_open', '{}', w.open),
      ('partitions_ahead_seconds', '{}', p.ahead)
  ) as m (name, labels, value);

comment on view webhookpub.metrics is
  'Numbers for monitoring, one a row. docs/monitoring.md says what each means; counts of what waits stop at 10,000.';
comment on column webhookpub.metrics.name is
  'Its name, as for Prometheus: _seconds is a duration, _total only grows, any other goes up and down.';
comment on column webhookpub.metrics.labels is
  'What tells rows of one name apart; empty where there is one.';
comment on column webhookpub.metrics.value is 'The number, as of now.';
--! EndIncluded 7_inspect/metrics.sql
--! Included 7_inspect/read_partitions.sql
-- Reads what partitions there are, and whether DEFAULT has rows, which nobody else may look
-- into: a partition would show the rows of everybody.
--
-- Called by  the view webhookpub.partitions.

create or replace function webhookpub.read_partitions ()
  returns table (
    table_name name,
    partition_name name,
    first_day date,
    last_day date,
    bytes bigint,
    has_strays boolean
  )
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select
    t.relname,
    c.relname,
    p.first_day,
    p.last_day,
    pg_total_relation_size(c.oid),
    case when p.name is null then webhookpub.has_strays(t.oid) end
  from pg_class as t
  join pg_inherits as i on i.inhparent = t.oid
  join pg_class as c on c.oid = i.inhrelid
  left join webhookpub.partitions_of(t.oid) as p on p.name = c.relname
  where t.oid in ('webhookpub.envelopes'::regclass, 'webhookpub.attempts'::regclass)
    and c.relkind = 'r';
$$;

comment on function webhookpub.read_partitions () is
  'The rows of webhookpub.partitions, for those who may not look into partitions.';
--! EndIncluded 7_inspect/read_partitions.sql
--! Included 7_inspect/partitions.sql
-- The partitions of envelopes and attempts: what there is of each, and whether upkeep runs.
--
-- Called by  psql.

create or replace view webhookpub.partitions
  with (security_invoker = true)
as
  select p.table_name, p.partition_name, p.first_day, p.last_day, p.bytes, p.has_strays
  from webhookpub.read_partitions() as p;

comment on view webhookpub.partitions is
  'The partitions of envelopes and attempts: of which days, how large, and whether DEFAULT has rows.';
comment on column webhookpub.partitions.table_name is 'envelopes or attempts.';
comment on column webhookpub.partitions.partition_name is 'Its name.';
comment on column webhookpub.partitions.first_day is 'The first day (UTC) in it; null: it is DEFAULT.';
comment on column webhookpub.partitions.last_day is 'The last.';
comment on column webhookpub.partitions.bytes is 'What it takes, with its indexes.';
comment on column webhookpub.partitions.has_strays is
  'Of DEFAULT: whether it has rows, for which upkeep had made no partition; else null.';
--! EndIncluded 7_inspect/partitions.sql
--! Included 7_inspect/read_metrics.sql
-- What webhookpub.metrics says, for workers, which may not read the tables behind it.
--
-- Called by  a worker that is asked for /metrics.

create or replace function webhookpub.read_metrics ()
  returns table (
    name text,
    labels jsonb,
    value numeric
  )
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select m.name, m.labels, m.value from webhookpub.metrics as m;
$$;

comment on function webhookpub.read_metrics () is
  'The rows of webhookpub.metrics, for workers, which may not read the tables behind it.';
--! EndIncluded 7_inspect/read_metrics.sql
--! Included 7_inspect/read_sessions.sql
-- Reads the sessions of this database as its owner sees them: PostgreSQL shows a role no more
-- than the names of others' sessions. What they say is not read: data may be in it.
--
-- Called by  the view webhookpub.sessions.

create or replace function webhookpub.read_sessions ()
  returns table (
    pid integer,
    role_name name,
    application_name text,
    client_addr inet,
    connected_at timestamptz,
    transaction_began_at timestamptz,
    state text,
    waits_for integer[]
  )
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select
    a.pid,
    a.usename,
    a.application_name,
    a.client_addr,
    a.backend_start,
    a.xact_start,
    a.state,
    -- Looking it up stops the lock manager for an instant: only where there is something to find.
    case when a.wait_event_type = 'Lock' then pg_blocking_pids(a.pid) end
  from pg_stat_activity as a
  where a.datname = current_database();
$$;

comment on function webhookpub.read_sessions () is
  'The rows of webhookpub.sessions, for those to whom PostgreSQL shows no others'' sessions.';
--! EndIncluded 7_inspect/read_sessions.sql
--! Included 7_inspect/sessions.sql
-- Who is connected to this database, workers and all others.
--
-- Called by  psql.

create or replace view webhookpub.sessions
  with (security_invoker = true)
as
  select
    s.pid, s.role_name, s.application_name, s.client_addr, s.connected_at,
    s.transaction_began_at, s.state, s.waits_for
  from webhookpub.read_sessions() as s;

comment on view webhookpub.sessions is
  'Who is connected to this database and who waits for whom, as far as webhookpub''s owner may see it.';
comment on column webhookpub.sessions.pid is 'Its process, for pg_terminate_backend.';
comment on column webhookpub.sessions.role_name is 'Who it logged in as.';
comment on column webhookpub.sessions.application_name is
  'webhookpub and webhookpub-jobs are a worker''s.';
comment on column webhookpub.sessions.client_addr is
  'From where; null: through a socket, or the owner may not see it.';
comment on column webhookpub.sessions.connected_at is 'Since when.';
comment on column webhookpub.sessions.transaction_began_at is
  'Since when it has a transaction open; null: it has none.';
comment on column webhookpub.sessions.state is 'active, idle, idle in transaction and so on.';
comment on column webhookpub.sessions.waits_for is
  'The processes that hold the lock that it waits for; null: it waits for none.';
--! EndIncluded 7_inspect/sessions.sql
--! Included 7_inspect/version.sql
-- The version of this schema: that of the package that installed it.
--
-- Called by  workers, when they start.

create or replace function webhookpub.version ()
  returns text
  language sql
  immutable
  parallel safe
return '0.1.0';

comment on function webhookpub.version () is 'The version of webhookpub in this database.';
--! EndIncluded 7_inspect/version.sql
--! Included 7_inspect/webhook_health.sql
-- How each webhook does: what became of its last attempts, and what waits for it.
--
-- Called by  psql: one webhook, one user, or those that fail.
--
-- Bounded for each webhook, so that a long history costs nothing.

create or replace view webhookpub.webhook_health
  with (security_invoker = true)
as
  select
    w.id as webhook_id, w.user_id, w.url, w.enabled, w.disabled_reason, w.disabled_at,
    w.failing_since, w.circuit_opened_at, w.circuit_retry_at,
    case when w.paused_until > statement_timestamp() then w.paused_until end as paused_until,
    case when p.pending > 0 then webhookpub.webhook_waits(w.id) end as waits_for,
    w.max_per_second, w.ordered, w.last_delivered_at,
    r.attempts as recent_attempts, r.success_rate, r.p95_duration_ms, r.last_error,
    p.pending, p.oldest_pending, p.in_flight, w.max_in_flight
  from webhookpub.webhooks as w
  left join lateral (
    select
      count(*) as attempts,
      round(avg(coalesce(a.status_code between 200 and 299, false)::integer), 3) as success_rate,
      percentile_disc(0.95) within group (order by a.duration_ms) as p95_duration_ms,
      (array_agg(a.error order by a.started_at desc) filter (where a.error is not null))[1] as last_error
    from (
      select a.started_at, a.status_code, a.duration_ms, a.error
      from webhookpub.attempts as a
      where a.webhook_id = w.id
        and a.started_at > statement_timestamp() - interval '1 day'
        and a.started_at <= statement_timestamp()
      order by a.started_at desc
      limit 100
    ) as a
  ) as r on true
  left join lateral (
    select
      count(*) as pending,
      statement_timestamp() - (
        select h.created_at
        from webhookpub.delivery_history as h
        -- Ids are in the order of time.
        where h.id = min(q.delivery_id)
      ) as oldest_pending,
      count(*) filter (where q.leased and q.due_at > statement_timestamp()) as in_flight
    from (
      select q.delivery_id, q.leased, q.due_at
      from webhookpub.queue as q
      where q.webhook_id = w.id
      order by q.leased, q.due_at
      limit 10000
    ) as q
  ) as p on true
  where w.deleted_at is null;

comment on view webhookpub.webhook_health is
  'How each webhook does, deleted ones left out. Rates are over its last 100 attempts, of the last 24 hours.';
comment on column webhookpub.webhook_health.url is 'Where deliveries are POSTed.';
comment on column webhookpub.webhook_health.disabled_reason is
  'manual, failing, gone or what the operator gave.';
comment on column webhookpub.webhook_health.failing_since is
  'First failed attempt since the last success; null while all is well.';
comment on column webhookpub.webhook_health.circuit_opened_at is
  'Since when its receiver is left alone because it does not answer; null while it does.';
comment on column webhookpub.webhook_health.circuit_retry_at is
  'When the next delivery goes out as a probe; an answer to it closes the circuit.';
comment on column webhookpub.webhook_health.paused_until is
  'Until when its receiver asked to be left alone (Retry-After); null when it did not.';
comment on column webhookpub.webhook_health.waits_for is
  'What all that is pending waits for: an enabled webhook, a secret, a closed circuit, the end of a pause, its pace, room, or delivery to be on; null: nothing, or nothing is pending.';
comment on column webhookpub.webhook_health.max_per_second is
  'Its pace: how many requests a second it gets at most; null: it has none.';
comment on column webhookpub.webhook_health.ordered is
  'Whether its deliveries with the same ordering key go one after another.';
comment on column webhookpub.webhook_health.last_delivered_at is
  'Last success, to about 10 s.';
comment on column webhookpub.webhook_health.recent_attempts is
  'How many attempts the next columns are about: the last 100, of the last 24 hours.';
comment on column webhookpub.webhook_health.success_rate is
  'Share of them that got a 2xx, from 0 to 1; null without any.';
comment on column webhookpub.webhook_health.p95_duration_ms is
  '95 of 100 took no longer than this, in milliseconds; null without any.';
comment on column webhookpub.webhook_health.last_error is
  'Why the last of them that failed did so.';
comment on column webhookpub.webhook_health.pending is
  'Deliveries that have not ended; 10,000 means that many or more.';
comment on column webhookpub.webhook_health.oldest_pending is
  'How long the oldest of them has been there; of the first 10,000 that are due.';
comment on column webhookpub.webhook_health.in_flight is
  'Requests that are under way now, on all workers.';
comment on column webhookpub.webhook_health.max_in_flight is
  'How many of them may be; when in_flight is there, the receiver is slow.';
--! EndIncluded 7_inspect/webhook_health.sql
--! Included 8_steer/find_event.sql
-- Finds an event that was fanned out, and with it the webhooks that it matched then.
--
-- Called by  webhookpub.redeliver.
-- Returns    the event. One that has expired is put together from its first deliveries, as far
--            as they tell.
-- Raises     WH020; WH022 when it has not been fanned out yet.

create or replace function webhookpub.find_event (
  p_event_id text
)
  returns webhookpub.events
  language plpgsql
  stable
as $$
declare
  v_event webhookpub.events;
begin
  select e.* into v_event from webhookpub.events as e where e.id = p_event_id;
  if v_event.status = 'pending' then
    raise exception using
      errcode = 'WH022',
      message = format('event %L has not been fanned out yet', p_event_id),
      hint = 'What it matches is not decided yet: is a worker running?';
  end if;
  if v_event.id is not null then
    return v_event;
  end if;

  select d.event_id, w.user_id, d.event_type, d.message_id, d.event_created_at, array_agg(w.id)
  into
    v_event.id, v_event.user_id, v_event.type, v_event.message_id, v_event.created_at,
    v_event.matched_webhook_ids
  from webhookpub.delivery_history as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.event_id = p_event_id and d.replay_id is null
  group by d.event_id, w.user_id, d.event_type, d.message_id, d.event_created_at;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format('no such event: %s', coalesce(quote_literal(left(p_event_id, 210)), 'null')),
      hint = 'Events are kept for settings.event_retention.';
  end if;
  return v_event;
end;
$$;

comment on function webhookpub.find_event (text) is
  'An event that was fanned out, with the webhooks that it matched. Raises WH020, WH022.';
--! EndIncluded 8_steer/find_event.sql
--! Included 8_steer/redeliver.sql
-- Sends an event again, to one webhook or to every one that it matched.
--
-- Called by  psql, applications.
-- Locks      nothing that anybody waits for, but for who replays the same event to the
--            same webhook at this moment.
-- Returns    one row a webhook: created (a new delivery), pending (a replay that is still
--            under way) or skipped, and why.
-- Raises     WH020, WH022.
--
-- Nothing is matched again: the webhooks are those of the decision when it was fanned out.
-- The bytes and the event's id are the same; secret, URL and schedule are today's.

create or replace function webhookpub.redeliver (
  p_event_id text,
  p_webhook_id text default null
)
  returns table (
    webhook_id text,
    delivery_id text,
    outcome text,
    reason text
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := clock_timestamp();
  v_replay_id constant text := 'rpl_' || webhookpub.random_hex();
  v_event constant webhookpub.events := webhookpub.find_event(p_event_id);
  v_webhook_ids text[] := v_event.matched_webhook_ids;
  v_is_kept boolean;
  v_created text[];
begin
  if p_webhook_id is not null then
    select array_agg(w.id) into v_webhook_ids
    from webhookpub.webhooks as w
    where w.id = p_webhook_id and w.user_id = v_event.user_id;
    if v_webhook_ids is null then
      raise exception using
        errcode = 'WH020',
        message = format('no such webhook of the event''s user: %L', left(p_webhook_id, 100)),
        hint = 'List them with: select id, user_id, url from webhookpub.webhooks;';
    end if;
  end if;
  v_is_kept := webhookpub.stored_envelope(v_event.id, v_event.created_at) is not null;

  -- The queue first: there, one replay of an event is pending for a webhook.
  with queued as (
    insert into webhookpub.queue as q (delivery_id, webhook_id, due_at, replay_of)
    select webhookpub.delivery_id(v_now), w.id, v_now, v_event.id
    from webhookpub.webhooks as w
    where w.id = any (v_webhook_ids)
      and w.id = any (v_event.matched_webhook_ids)
      and w.enabled
      and v_is_kept
    order by w.id
    on conflict (replay_of, webhook_id) where replay_of is not null do nothing
    returning q.delivery_id, q.webhook_id
  ),
  created as (
    insert into webhookpub.delivery_history as h
      (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
       max_attempts, created_at)
    select
      q.delivery_id, q.webhook_id, v_event.id, v_event.type, v_event.created_at,
      v_event.message_id, v_replay_id, cardinality(w.retry_schedule) + 1, v_now
    from queued as q
    join webhookpub.webhooks as w on w.id = q.webhook_id
    returning h.webhook_id
  )
  select array_agg(c.webhook_id) into v_created from created as c;

  return query
  with target as materialized (
    select
      w.id,
      w.created_at,
      case
        when w.id <> all (v_event.matched_webhook_ids)
          then 'unmatched: the event did not match it when it was fanned out'
        when w.deleted_at is not null then 'deleted'
        when not w.enabled then 'disabled: ' || w.disabled_reason
        when not v_is_kept then 'expired: the envelope is not kept any more'
      end as reason
    from webhookpub.webhooks as w
    where w.id = any (v_webhook_ids)
  )
  select
    t.id,
    d.id,
    case
      when t.reason is not null then 'skipped'
      when d.replay_id = v_replay_id then 'created'
      else 'pending'
    end,
    coalesce(t.reason, case
      when d.replay_id <> v_replay_id then format('a replay is under way since %s', d.created_at)
    end)
  from target as t
  left join lateral (
    select h.id, h.replay_id, h.created_at
    from webhookpub.delivery_history as h
    where t.reason is null
      and h.event_id = v_event.id and h.webhook_id || '' = t.id and h.replay_id is not null
    order by h.status = 'pending' desc, h.id desc
    limit 1
  ) as d on true
  order by t.created_at, t.id;

  perform webhookpub.add_deliver_jobs(v_created);
end;
$$;

comment on function webhookpub.redeliver (text, text) is
  'Sends an event again, to one webhook or to all that it matched; never matches again. Returns what became of each: created, pending or skipped. Raises WH020, WH022.';
--! EndIncluded 8_steer/redeliver.sql
--! Included 8_steer/redeliver_since.sql
-- Sends a webhook again what was published for it within a time.
--
-- Called by  psql, applications.
-- Locks      nothing that anybody waits for, but for who replays the same to the same
--            webhook at this moment.
-- Returns    how many deliveries were made, or would have been.
-- Raises     WH020, WH021, WH022.
--
-- Nothing is matched again: what was delivered to the webhook is the decision. An event
-- counts by its last delivery, first or replay; one that has a pending delivery is on its
-- way already.

create or replace function webhookpub.redeliver_since (
  p_webhook_id text,
  p_since timestamptz,
  p_until timestamptz default now(),
  p_only_failed boolean default true,
  p_dry_run boolean default false
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_replay_id constant text := 'rpl_' || webhookpub.random_hex();
  v_webhook constant webhookpub.webhooks := webhookpub.find_webhook(p_webhook_id, true);
  -- No delivery is older than its event, and ids are in the order of time.
  v_first_id constant text := left(
    webhookpub.delivery_id(least(greatest(p_since, 'epoch'), v_now)), 16
  );
  v_count bigint;
begin
  if (p_since < p_until) is not true then
    raise exception using
      errcode = 'WH022',
      message = format(
        'p_since %s must be before p_until %s',
        coalesce(p_since::text, 'null'), coalesce(p_until::text, 'null')
      ),
      hint = 'Events count by when they were published: from p_since on, before p_until.';
  end if;
  if p_only_failed is null or p_dry_run is null then
    raise exception using
      errcode = 'WH022',
      message = 'p_only_failed and p_dry_run must be true or false, not null',
      hint = 'Leave them out to replay what failed.';
  end if;

  with last as (
    select distinct on (d.event_id)
      d.event_id, d.event_type, d.event_created_at, d.message_id, d.status
    from webhookpub.delivery_history as d
    where d.webhook_id = v_webhook.id
      and d.id >= v_first_id
      and d.event_created_at >= p_since
      and d.event_created_at < p_until
      and starts_with(d.replay_id, 'test_') is not true
    order by d.event_id, d.status = 'pending' desc, d.id desc
  ),
  replayable as materialized (
    select l.*, case when not p_dry_run then webhookpub.delivery_id(v_now) end as delivery_id
    from last as l
    where (l.status = 'failed' or (l.status = 'delivered' and not p_only_failed))
      and exists (
        select
        from webhookpub.envelopes as n
        where n.event_id = l.event_id and n.created_at = l.event_created_at
          and n.created_at >= p_since and n.created_at < p_until
      )
  ),
  -- The queue first: there, one replay of an event is pending for a webhook.
  queued as (
    insert into webhookpub.queue as q (delivery_id, webhook_id, due_at, replay_of)
    select r.delivery_id, v_webhook.id, v_now, r.event_id
    from replayable as r
    where not p_dry_run
    order by r.event_created_at
    on conflict (replay_of, webhook_id) where replay_of is not null do nothing
    returning q.delivery_id
  ),
  created as (
    insert into webhookpub.delivery_history as h
      (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
       max_attempts, created_at)
    select
      r.delivery_id, v_webhook.id, r.event_id, r.event_type, r.event_created_at, r.message_id,
      v_replay_id, cardinality(v_webhook.retry_schedule) + 1, v_now
    from replayable as r
    -- "is true": looked up in a hash, never joined row by row, whatever stale statistics say.
    where (r.delivery_id in (select q.delivery_id from queued as q)) is true
    returning h.id
  )
  select case when p_dry_run
    then (select count(*) from replayable)
    else (select count(*) from created)
  end
  into v_count;

  if v_count > 0 and not p_dry_run then
    perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  end if;
  return v_count;
end;
$$;

comment on function webhookpub.redeliver_since (text, timestamptz, timestamptz, boolean, boolean) is
  'Sends a webhook again the events published from p_since to before p_until: those that failed, or all; a dry run only counts. Raises WH020, WH021, WH022.';
--! EndIncluded 8_steer/redeliver_since.sql
--! Included 8_steer/retry_publish_failures.sql
-- Publishes what the best-effort path could not, as far as it can be published now.
--
-- Called by  psql, applications.
-- Locks      the failures that it takes, skipping those that somebody else has.
-- Returns    how many were published. What fails again stays, with its new error, and
--            goes behind those that were not tried for longer.

create or replace function webhookpub.retry_publish_failures (
  p_limit integer default 100
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_failure webhookpub.publish_failures;
  v_sqlstate text;
  v_message text;
  v_count bigint := 0;
begin
  perform from webhookpub.settings as s where s.publish_enabled;
  if not found then
    return 0;
  end if;
  for v_failure in
    select f.*
    from webhookpub.publish_failures as f
    order by f.tried_at, f.id
    limit greatest(p_limit, 0)
    for update skip locked
  loop
    begin
      perform public.webhook_publish_tx(
        v_failure.event_type, v_failure.user_id, v_failure.data, v_failure.agent_id,
        v_failure.conversation_id, v_failure.labels, v_failure.message_id,
        v_failure.dedup_key, v_failure.event_id, v_failure.ordering_key
      );
      delete from webhookpub.publish_failures as f where f.id = v_failure.id;
      v_count := v_count + 1;
    exception when others then
      get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text;
      update webhookpub.publish_failures as f
      set sqlstate = v_sqlstate, message = v_message, tried_at = clock_timestamp()
      where f.id = v_failure.id;
    end;
  end loop;
  return v_count;
end;
$$;

comment on function webhookpub.retry_publish_failures (integer) is
  'Publishes up to p_limit of webhookpub.publish_failures; what still fails stays, with its new error. Returns how many were published.';
--! EndIncluded 8_steer/retry_publish_failures.sql
--! Included 8_steer/test_webhook.sql
-- Sends a webhook an event that has not happened, to see whether it gets through.
--
-- Called by  psql, applications.
-- Returns    the id of the delivery. There is one attempt, and no row in events.
-- Raises     WH002, WH020, WH021.
--
-- Its attempt counts for the webhook's health like any other; that it failed is told to
-- nobody else.

create or replace function webhookpub.test_webhook (
  p_webhook_id text,
  p_event_type text default null
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_webhook constant webhookpub.webhooks := webhookpub.find_webhook(p_webhook_id, true);
  v_event_id constant text := webhookpub.random_event_id();
  v_delivery_id constant text := webhookpub.delivery_id(v_now);
  v_type text;
begin
  -- By default something that it listens to: what it names first, then what it includes.
  select t.name into v_type
  from webhookpub.event_types as t
  where case
    when p_event_type is not null then t.name = p_event_type
    else v_webhook.events && webhookpub.type_patterns(t.name)
  end
  order by array_position(v_webhook.events, t.name), t.name like 'webhook.%', t.name
  limit 1;
  if not found then
    raise exception using
      errcode = 'WH002',
      message = case
        when p_event_type is null
          then format('webhook %L listens to no event type of the catalog', v_webhook.id)
        else format('event type %L is not in the catalog', left(p_event_type, 100))
      end,
      hint = 'List it with: table webhookpub.event_types; name one as p_event_type.';
  end if;

  insert into webhookpub.envelopes (event_id, created_at, user_id, body)
  values (
    v_event_id, v_now, v_webhook.user_id,
    '{"event": "' || v_type || '", "id": "' || v_event_id
      || '", "created_at": "' || webhookpub.rfc3339(v_now)
      || '", "data": {"test": true, "message": "A test by webhookpub: this has not happened."}}'
  );
  insert into webhookpub.delivery_history
    (id, webhook_id, event_id, event_type, event_created_at, replay_id, max_attempts, created_at)
  values (
    v_delivery_id, v_webhook.id, v_event_id, v_type, v_now, 'test_' || webhookpub.random_hex(),
    1, v_now
  );
  insert into webhookpub.queue (delivery_id, webhook_id, due_at)
  values (v_delivery_id, v_webhook.id, v_now);
  perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  return v_delivery_id;
end;
$$;

comment on function webhookpub.test_webhook (text, text) is
  'Sends a webhook one test delivery, of a type that it listens to by default; returns its id. Raises WH002, WH020, WH021.';
--! EndIncluded 8_steer/test_webhook.sql
--! Included 9_roles/check_privileges.sql
-- Lists who may do what with webhookpub's objects without having been meant to. None is good.
--
-- Called by  webhookpub.settle_privileges; operators; doctor.
-- Returns    what PUBLIC may do; and what others may do with objects that have not been
--            settled: such as a restore has made, or default privileges have opened. What is
--            granted on a settled object was granted by somebody who meant it. origin says
--            where it is from, statement ends it.
--
-- The roles webhookpub_* are not here: install_roles gives them exactly what is theirs.
-- Default privileges of the schema webhookpub do not count as such: only somebody who means
-- webhookpub can have set them.

create or replace function webhookpub.check_privileges ()
  returns table (who text, object text, privilege text, origin text, statement text)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  with unsettled as (
    select o.class, o.object
    from webhookpub.own_objects() as o
    except
    select s.class, s.object
    from webhookpub.settled_objects as s
    where s.server = (select c.system_identifier from pg_control_system() as c)
  )
  select
    w.name,
    o.kind || ' ' || o.name,
    string_agg(distinct e.privilege_type, ', '),
    case
      when e.grantee = 0 then 'PostgreSQL''s own defaults'
      when bool_or(i.inherited) then 'default privileges'
      else 'a restore'
    end,
    format('revoke all on %s %s from %s', o.kind, o.name, w.name)
  from webhookpub.own_objects() as o
  cross join aclexplode(o.privileges) as e
  cross join lateral (
    select case e.grantee when 0 then 'PUBLIC' else e.grantee::regrole::text end
  ) as w (name)
  cross join lateral (
    select exists (
      select
      from pg_default_acl as d
      cross join aclexplode(d.defaclacl) as x
      where d.defaclobjtype::text = o.letter
        and d.defaclnamespace in (0, nullif(o.namespace, to_regnamespace('webhookpub')))
        and x.grantee = e.grantee
        and x.privilege_type = e.privilege_type
    )
  ) as i (inherited)
  where e.grantee = 0
    or e.grantee <> e.grantor
    and w.name !~ '^webhookpub_(publisher|worker|operator|readonly|tenant)$'
    and exists (select from unsettled as u where u.class = o.class and u.object = o.object)
  group by w.name, e.grantee, o.kind, o.name
  order by e.grantee, o.kind, o.name;
$$;

comment on function webhookpub.check_privileges () is
  'Who may do what with webhookpub''s objects without having been meant to, and the statement that ends it; none is good.';
--! EndIncluded 9_roles/check_privileges.sql
--! Included 9_roles/create_roles.sql
-- Creates the roles that are missing. They belong to the whole server, and all of its
-- databases share them.
--
-- Called by  webhookpub.install_roles.
-- Locks      their names: one that creates them in another database waits.
-- Returns    whether all of them are there now.

create or replace function webhookpub.create_roles ()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regrole('webhookpub_publisher') is null then
    create role webhookpub_publisher nologin;
    comment on role webhookpub_publisher is 'Publishes events, and does nothing else.';
  end if;
  if to_regrole('webhookpub_worker') is null then
    create role webhookpub_worker nologin;
    comment on role webhookpub_worker is 'Runs webhookpub''s worker.';
  end if;
  if to_regrole('webhookpub_operator') is null then
    create role webhookpub_operator nologin;
    comment on role webhookpub_operator is 'Steers webhookpub and sees everything but secrets.';
  end if;
  if to_regrole('webhookpub_readonly') is null then
    create role webhookpub_readonly nologin;
    comment on role webhookpub_readonly is 'Sees everything of webhookpub but secrets.';
  end if;
  if to_regrole('webhookpub_tenant') is null then
    create role webhookpub_tenant nologin;
    comment on role webhookpub_tenant is 'Sees what is its own user''s of webhookpub.';
  end if;
  return true;
exception
  when insufficient_privilege then
    return false;
  when duplicate_object or unique_violation then
    -- Another database was faster.
    return webhookpub.create_roles();
end;
$$;

comment on function webhookpub.create_roles () is
  'Creates the roles webhookpub_* that are missing; returns false when that is not allowed.';
--! EndIncluded 9_roles/create_roles.sql
--! Included 9_roles/grant_functions.sql
-- Says which role may call which function.
--
-- Called by  webhookpub.install_roles.
--
-- A function that stands here for nobody is called by other functions only.

create or replace function webhookpub.grant_functions ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  grant usage on schema webhookpub to
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;
  revoke all on all functions in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant execute on function
    public.webhook_publish_tx, public.webhook_publish_best_effort_tx, public.webhook_publish,
    webhookpub.publish_row,
    webhookpub.random_event_id
  to webhookpub_publisher;

  grant execute on function
    webhookpub.closed_networks,
    webhookpub.wake, webhookpub.enter_fan_out, webhookpub.leave_fan_out, webhookpub.fan_out,
    webhookpub.fan_out_batch, webhookpub.lease_deliveries, webhookpub.lease_requests,
    webhookpub.release_deliveries, webhookpub.record_attempts, webhookpub.maintain,
    webhookpub.read_metrics
  to webhookpub_worker;

  -- The secret that create_webhook and rotate_secret make is shown to their caller; no
  -- function shows one that exists.
  grant execute on function
    webhookpub.create_webhook, webhookpub.update_webhook, webhookpub.rotate_secret,
    webhookpub.enable_webhook, webhookpub.disable_webhook, webhookpub.delete_webhook,
    webhookpub.redeliver, webhookpub.redeliver_since, webhookpub.test_webhook, webhookpub.skip,
    webhookpub.retry_publish_failures, webhookpub.register_event_types,
    webhookpub.fan_out, webhookpub.maintain
  to webhookpub_operator;

  -- What explain_event calls runs as its caller, so that it shows what its caller may see.
  grant execute on function
    webhookpub.explain_event, webhookpub.stored_envelope, webhookpub.type_patterns,
    webhookpub.unmatched_clause, webhookpub.data_holds, webhookpub.current_user_id
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  -- What a delivery waits for, in delivery_log and webhook_health.
  grant execute on function webhookpub.webhook_waits_for, webhookpub.webhook_waits
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.event_id, webhookpub.is_valid_event_type
  to webhookpub_publisher, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  -- The read_* are behind views.
  grant execute on function
    webhookpub.check_privileges, webhookpub.diagnose, webhookpub.read_jobs,
    webhookpub.read_sessions, webhookpub.read_partitions
  to webhookpub_operator, webhookpub_readonly;

  grant execute on function webhookpub.version, webhookpub.last_migration
  to webhookpub_worker, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
end;
$$;

comment on function webhookpub.grant_functions () is
  'Gives each role webhookpub_* the functions that it may call, and no others.';
--! EndIncluded 9_roles/grant_functions.sql
--! Included 9_roles/grant_jobs.sql
-- Lets the worker's role run graphile-worker without being the owner of its tables. They
-- have row-level security without policies; an owner, or a member of the owner, could
-- change graphile-worker's functions and so run what it likes as webhookpub's owner.
--
-- Called by  webhookpub.install_roles.
-- Locks      graphile-worker's tables, for an instant, the first time only.

create or replace function webhookpub.grant_jobs ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  grant usage on schema graphile_worker to webhookpub_worker;
  grant execute on all functions in schema graphile_worker to webhookpub_worker;
  grant select on graphile_worker.migrations to webhookpub_worker;
  grant select, insert, update, delete on
    graphile_worker._private_jobs, graphile_worker._private_job_queues,
    graphile_worker._private_tasks, graphile_worker._private_known_crontabs
  to webhookpub_worker;

  if not exists (
    select
    from pg_policy as p
    where p.polrelid = 'graphile_worker._private_jobs'::regclass
      and p.polname = 'webhookpub_worker'
  ) then
    create policy webhookpub_worker on graphile_worker._private_jobs
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_job_queues
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_tasks
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_known_crontabs
      to webhookpub_worker using (true);
  end if;
end;
$$;

comment on function webhookpub.grant_jobs () is
  'Gives webhookpub_worker graphile-worker''s jobs and queues.';
--! EndIncluded 9_roles/grant_jobs.sql
--! Included 9_roles/grant_tables.sql
-- Says which role may read which table and view, and the little that it may write.
--
-- Called by  webhookpub.install_roles.
-- Locks      the tables with row-level security, for an instant, the first time only.
--
-- Not here: the secrets, and partitions, which would show the rows of everybody.

create or replace function webhookpub.grant_tables ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text;
  v_policy text;
begin
  revoke all on all tables in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant select on
    webhookpub.event_types, webhookpub.webhooks, webhookpub.events, webhookpub.envelopes,
    webhookpub.delivery_history, webhookpub.queue, webhookpub.deliveries,
    webhookpub.attempts, webhookpub.publish_failures,
    webhookpub.tenants, webhookpub.envelopes_by_event, webhookpub.event_log,
    webhookpub.delivery_log, webhookpub.webhook_health
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
  -- What is not about one user alone.
  grant select on
    webhookpub.settings, webhookpub.backlog, webhookpub.metrics, webhookpub.attempts_recorded,
    webhookpub.upkeep, webhookpub.jobs, webhookpub.sessions, webhookpub.partitions
  to webhookpub_operator, webhookpub_readonly;

  -- For deliveries.expires_at.
  grant select (delivery_retention) on webhookpub.settings to webhookpub_tenant;

  -- Neither where webhooks may point nor for how long things are kept.
  grant update (
    publish_enabled, deliver_enabled, max_payload_bytes, max_webhooks_per_user, request_timeout,
    auto_disable_after, auto_disable_min_failures
  ) on webhookpub.settings to webhookpub_operator;
  grant insert on webhookpub.event_types to webhookpub_operator;

  foreach v_table in array array[
    'webhooks', 'events', 'envelopes', 'delivery_history', 'queue', 'attempts',
    'publish_failures', 'tenants'
  ]
  loop
    v_policy := v_table || '_of_all_users';
    continue when exists (
      select
      from pg_policy as p
      where p.polrelid = format('webhookpub.%I', v_table)::regclass and p.polname = v_policy
    );
    execute format(
      'create policy %I on webhookpub.%I
         for select to webhookpub_operator, webhookpub_readonly using (true)',
      v_policy, v_table
    );
  end loop;
end;
$$;

comment on function webhookpub.grant_tables () is
  'Gives each role webhookpub_* the tables and views that it may read, and no others.';
--! EndIncluded 9_roles/grant_tables.sql
--! Included 9_roles/install_roles.sql
-- Installs the roles: creates those that are missing and gives each exactly the privileges
-- that belong to it, and no others; strangers lose what they were not meant to have. Safe to
-- repeat.
--
-- Called by  migrations that add or replace objects; npm run migrate; psql, when somebody
--            else has had to create the roles.
-- Returns    false, with a WARNING, when they may not be created: all works without them,
--            but only for the owner and whom the owner grants something.

create or replace function webhookpub.install_roles ()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform webhookpub.settle_privileges();
  if not webhookpub.create_roles() then
    raise warning 'webhookpub''s roles are not installed: % may not create roles', current_user
      using hint = 'All works without them. How to have them: docs/security.md, in the package webhookpub.';
    return false;
  end if;
  perform webhookpub.grant_functions();
  perform webhookpub.grant_tables();
  perform webhookpub.grant_jobs();
  return true;
end;
$$;

comment on function webhookpub.install_roles () is
  'Creates the roles webhookpub_* where that is allowed, and gives each its privileges; false when it is not allowed.';
--! EndIncluded 9_roles/install_roles.sql
--! Included 9_roles/own_objects.sql
-- Lists the objects of webhookpub that privileges are granted on, with these privileges: its
-- schema, what is in it, and the publish functions.
--
-- Called by  webhookpub.check_privileges and webhookpub.settle_privileges.
-- Returns    a row an object; letter is its kind in pg_default_acl; privileges has those of
--            its columns, too, and is null where there is none.
--
-- Types are not here: with one that PUBLIC may use nobody can do anything.

create or replace function webhookpub.own_objects ()
  returns table (
    class oid, object oid, kind text, letter text, name text, namespace oid, privileges aclitem[]
  )
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select n.tableoid, n.oid, 'schema', 'n', n.oid::regnamespace::text, null::oid,
    coalesce(n.nspacl, acldefault('n', n.nspowner))
  from pg_namespace as n
  where n.nspname = 'webhookpub'
  union all
  select p.tableoid, p.oid, 'routine', 'f', p.oid::regprocedure::text, p.pronamespace,
    coalesce(p.proacl, acldefault('f', p.proowner))
  from pg_proc as p
  where p.pronamespace = to_regnamespace('webhookpub')
    or p.pronamespace = to_regnamespace('public')
    and p.proname in ('webhook_publish_tx', 'webhook_publish_best_effort_tx', 'webhook_publish')
  union all
  select c.tableoid, c.oid, k.kind, k.letter, c.oid::regclass::text, c.relnamespace,
    nullif(array(select unnest(c.relacl)) || array(
      select unnest(a.attacl) from pg_attribute as a where a.attrelid = c.oid
    ), '{}')
  from pg_class as c
  cross join lateral (
    select
      case c.relkind when 'S' then 'sequence' else 'table' end,
      case c.relkind when 'S' then 'S' else 'r' end
  ) as k (kind, letter)
  where c.relnamespace = to_regnamespace('webhookpub')
    and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S');
$$;

comment on function webhookpub.own_objects () is
  'The objects of webhookpub that privileges are granted on, with these privileges.';
--! EndIncluded 9_roles/own_objects.sql
--! Included 9_roles/settle_privileges.sql
-- Takes away what nobody granted on purpose: what PUBLIC may do, and what default privileges
-- gave with new or restored objects. From then on what is granted on them is somebody's
-- intention, and stays.
--
-- Called by  webhookpub.install_roles, webhookpub.create_partitions; npm run migrate before
--            it upgrades, because a restore may have come before; migrations that make objects.
-- Raises     WARNINGs: what was taken away, unless p_quietly; what a restore brought along
--            and is kept, because its dump may have had it.

create or replace function webhookpub.settle_privileges (p_quietly boolean default false)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_server constant bigint := (select c.system_identifier from pg_control_system() as c);
  v_one record;
begin
  for v_one in
    select c.who, c.origin, count(*) as count, min(c.object) as example,
      string_agg(c.statement, '; ') as statements
    from webhookpub.check_privileges() as c
    group by c.who, c.origin
    order by c.who, c.origin
  loop
    if v_one.origin = 'a restore' then
      raise warning '% may use % of webhookpub''s objects, as a restore has made them',
        v_one.who, v_one.count
      using hint = format('If nobody means them: %s.', v_one.statements);
      continue;
    end if;
    execute v_one.statements;
    if not p_quietly then
      raise warning '% could use % of webhookpub''s objects, such as %: revoked',
        v_one.who, v_one.count, v_one.example
      using hint = format(
        'They came from %s. Grant anew what is meant, such as webhookpub_publisher; it stays.',
        v_one.origin
      );
    end if;
  end loop;

  insert into webhookpub.settled_objects (server, class, object)
  select v_server, o.class, o.object
  from webhookpub.own_objects() as o
  on conflict do nothing;
  delete from webhookpub.settled_objects as s
  where s.server <> v_server
    or not exists (
      select from webhookpub.own_objects() as o where o.class = s.class and o.object = s.object
    );
end;
$$;

comment on function webhookpub.settle_privileges (boolean) is
  'Takes away what PUBLIC may do with webhookpub''s objects, and what default privileges gave with new or restored ones.';
--! EndIncluded 9_roles/settle_privileges.sql

select
  webhookpub.create_partitions('webhookpub.envelopes'),
  webhookpub.create_partitions('webhookpub.attempts');

select webhookpub.settle_privileges(p_quietly => true);
select webhookpub.install_roles();

insert into webhookpub.migrations (name, hash) values
  ('000002', 'aeb900c76c93d3a44263f68ac5f9247617e84cb2f258a3f3d607d23974de9905');
