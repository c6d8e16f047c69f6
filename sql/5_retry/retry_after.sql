-- Reads a Retry-After header: seconds or an HTTP date.
--
-- Called by  webhookpub.judge_answers.
-- Returns    how long to wait, at most 24 h; null when it says nothing that makes sense.

create or replace function webhookpub.retry_after (
  p_header text,
  p_now timestamptz
)
  returns interval
  language plpgsql
  stable
as $$
begin
  if p_header ~ '^[[:space:]]*[0-9]+[[:space:]]*$' then
    return pg_catalog.make_interval(secs => least(p_header::numeric, 86400)::integer);
  end if;
  if p_header ~ '^[[:space:]]*[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT[[:space:]]*$' then
    return nullif(
      greatest(
        least(
          pg_catalog.to_timestamp(
            pg_catalog.substr(pg_catalog.btrim(p_header), 6, 20) || ' +00',
            'DD Mon YYYY HH24:MI:SS TZH'
          ) - p_now,
          interval '24 hours'
        ),
        interval '0'
      ),
      interval '0'
    );
  end if;
  return null;
exception when datetime_field_overflow or invalid_datetime_format then
  return null;
end;
$$;

comment on function webhookpub.retry_after (text, timestamptz) is
  'The pause that a Retry-After header asks for, up to 24 h; null when there is none.';
