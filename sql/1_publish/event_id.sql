-- Derives an event id from what identifies the event: the same parts, the same id.
--
-- Called by  public.webhook_publish_tx, and applications that want to know an id ahead.
-- Raises     WH001 when there are no parts or one is null.

create or replace function webhookpub.event_id (
  variadic parts text[]
)
  returns text
  language plpgsql
  immutable
  parallel safe
as $$
begin
  if (case
    when pg_catalog.array_ndims(parts) = 1 then pg_catalog.array_position(parts, null) is null
  end) then
    return 'evt_' || pg_catalog.left(
      pg_catalog.encode(
        pg_catalog.sha256(
          pg_catalog.convert_to(pg_catalog.array_to_string(parts, '|'), 'UTF8')
        ),
        'hex'
      ),
      32
    );
  end if;
  raise exception using
    errcode = 'WH001',
    message = pg_catalog.format(
      'event id parts %s: a flat list of at least one is needed, and none may be null',
      coalesce(pg_catalog.quote_literal(pg_catalog.left(parts::text, 200)), 'null')
    ),
    hint = 'Leave out parts that are unknown, or use webhookpub.random_event_id().';
end;
$$;

comment on function webhookpub.event_id (text[]) is
  'evt_ and the first 32 hex digits of SHA-256 over the parts joined by |. Raises WH001.';
