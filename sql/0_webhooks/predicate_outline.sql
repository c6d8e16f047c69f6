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
