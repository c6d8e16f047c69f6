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
