-- Reads a Retry-After header: seconds or an HTTP date, in any of the three forms that
-- RFC 9110 has.
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
declare
  v_header constant text := pg_catalog.btrim(p_header, E' \t');
  v_at timestamptz;
begin
  if v_header ~ '^[0-9]+$' then
    return pg_catalog.make_interval(secs => least(v_header::numeric, 86400)::integer);
  end if;
  v_at := case
    when v_header ~ '^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT$'
      then pg_catalog.to_timestamp(
        pg_catalog.substr(v_header, 6, 20) || ' +00', 'DD Mon YYYY HH24:MI:SS TZH'
      )
    -- RFC 850. Two digits of a year that would be far ahead are long past: no pause at all.
    when v_header ~ '^[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9:]{8} GMT$'
      then pg_catalog.to_timestamp(
        pg_catalog.left(pg_catalog.split_part(v_header, ', ', 2), 18) || ' +00',
        'DD-Mon-YY HH24:MI:SS TZH'
      )
    -- asctime.
    when v_header ~ '^[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}$'
      then pg_catalog.to_timestamp(
        pg_catalog.substr(v_header, 5) || ' +00', 'Mon DD HH24:MI:SS YYYY TZH'
      )
  end;
  if v_at > p_now then
    return least(v_at - p_now, interval '24 hours');
  end if;
  return null;
exception when datetime_field_overflow or invalid_datetime_format then
  return null;
end;
$$;

comment on function webhookpub.retry_after (text, timestamptz) is
  'The pause that a Retry-After header asks for, up to 24 h; null when there is none.';
