-- Lists every entry of webhooks.events that an event type satisfies.
--
-- Called by  webhookpub.fan_out_events, webhookpub.explain_event, webhookpub.check_events.
-- Returns    for email.sent: {*, email.*, email.sent}. One array overlap then decides.
--
-- PL/pgSQL keeps the plan; as an SQL function it took as long as the rest of a small fan-out.

create or replace function webhookpub.type_patterns (
  p_event_type text
)
  returns text[]
  language plpgsql
  immutable
  strict
  parallel safe
as $$
begin
  return (
    select array_agg(
      case
        when n.words = 0 then '*'
        when n.words = cardinality(t.words) then p_event_type
        else array_to_string(t.words[1 : n.words], '.') || '.*'
      end
      order by n.words
    )
    from (select string_to_array(p_event_type, '.') as words) as t
    cross join generate_series(0, cardinality(t.words)) as n (words)
  );
end;
$$;

comment on function webhookpub.type_patterns (text) is
  'The entries of webhooks.events that match this type: *, each prefix with .*, and itself.';
