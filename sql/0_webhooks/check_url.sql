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
