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
