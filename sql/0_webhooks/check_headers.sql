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
