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
