-- Decides a webhook's data predicate. Whatever goes wrong in it is no match: the operator
-- keeps silent about most errors, but not about an unknown variable or a time zone, and
-- one webhook's filter must not stop the fan-out for others.
--
-- Called by  webhookpub.unmatched_clause, for webhooks that filter by data.
-- Raises     WH023 when the time for the whole event, or batch, is over.
--
-- Each predicate is cheap (webhookpub.predicate_fault), but there may be many. Its result goes by
-- the data alone, so it is immutable; the clock only ends it.

create or replace function webhookpub.data_holds (
  p_data jsonb,
  p_predicate jsonpath,
  p_until timestamptz
)
  returns boolean
  language plpgsql
  immutable
  parallel restricted
as $$
begin
  if pg_catalog.clock_timestamp() > p_until then
    raise exception using
      errcode = 'WH023',
      message = 'matching takes too long: filters by data of this user''s webhooks, on this data',
      hint = 'It is tried again with more time. Fewer filters by data, or less data, take less.';
  end if;
  begin
    return coalesce(p_data operator(pg_catalog.@@) p_predicate, false);
  exception
    when insufficient_resources then
      raise; -- The server's fault, not the filter's.
    when others then
      return false;
  end;
end;
$$;

comment on function webhookpub.data_holds (jsonb, jsonpath, timestamptz) is
  'Whether a jsonpath predicate is true of the data; unknown or an error is false. Raises WH023 after p_until.';
