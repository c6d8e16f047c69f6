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
