-- Unpacks one list of a webhook's filters; an absent, null or empty one is no constraint.
--
-- Called by  the generated columns of webhookpub.webhooks.
-- Returns    the values, or null for no constraint.

create or replace function webhookpub.filter_values (
  p_filters jsonb,
  p_key text
)
  returns text[]
  language sql
  immutable
  parallel safe
return (
  select nullif(array_agg(v.value), '{}')
  from jsonb_array_elements_text(
    case jsonb_typeof(p_filters -> p_key)
      when 'array' then p_filters -> p_key
      else '[]'
    end
  ) as v (value)
);

comment on function webhookpub.filter_values (jsonb, text) is
  'The values that a filter list allows; null when it is no constraint.';
