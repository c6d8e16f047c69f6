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
