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
