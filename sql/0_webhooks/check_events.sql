-- Refuses a webhook's list of events when an entry could never match.
--
-- Called by  webhookpub.check_webhook.
-- Raises     WH010.

create or replace function webhookpub.check_events (
  p_events text[]
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_rule text;
  v_unknown text;
begin
  v_rule := case
    when p_events is null or cardinality(p_events) = 0 then 'it needs at least one entry'
    when array_ndims(p_events) > 1 then 'it must be a flat list'
    when cardinality(p_events) > 50 then 'it may have at most 50 entries'
    else (
      select format(
        'entry %s must be an event type, a prefix such as email.*, or *',
        coalesce(quote_literal(left(e.entry, 40)), 'null')
      )
      from unnest(p_events) as e (entry)
      where e.entry is null
        or length(e.entry) > 200
        or e.entry !~ '^([*]|[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)*[.]([*]|[a-z][a-z0-9_]*))$'
      limit 1
    )
  end;
  if v_rule is not null then
    raise exception using
      errcode = 'WH010',
      message = format('events %s: %s', coalesce(quote_literal(left(p_events::text, 200)), 'null'), v_rule),
      hint = 'List the event types with: table webhookpub.event_types;';
  end if;

  select e.entry into v_unknown
  from unnest(p_events) as e (entry)
  where not exists (
    select
    from webhookpub.event_types as t
    where e.entry = any (webhookpub.type_patterns(t.name))
  )
  limit 1;
  if found then
    raise warning 'events entry % matches no event type of the catalog, as it is today',
      quote_literal(v_unknown);
  end if;
end;
$$;

comment on function webhookpub.check_events (text[]) is
  'Raises WH010 when this is no list of event types, prefixes or *.';
