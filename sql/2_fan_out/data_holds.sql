-- Decides a webhook's data predicate. Whatever goes wrong in it is no match: the operator
-- keeps silent about most errors, but not about an unknown variable or a time zone, and
-- one webhook's filter must not stop the fan-out for others.
--
-- Called by  webhookpub.unmatched_clause, for webhooks that filter by data.

create or replace function webhookpub.data_holds (
  p_data jsonb,
  p_predicate jsonpath
)
  returns boolean
  language plpgsql
  immutable
  parallel restricted
as $$
begin
  return coalesce(p_data operator(pg_catalog.@@) p_predicate, false);
exception when others then
  return false;
end;
$$;

comment on function webhookpub.data_holds (jsonb, jsonpath) is
  'Whether a jsonpath predicate is true of the data; unknown or an error is false.';
