-- Refuses a list of event types that the catalog could not take.
--
-- Called by  webhookpub.register_event_types.
-- Raises     WH008.

create or replace function webhookpub.check_event_types (
  p_types jsonb
)
  returns void
  language plpgsql
  immutable
as $$
declare
  v_problem text;
begin
  if jsonb_typeof(p_types) is distinct from 'array' then
    v_problem := coalesce(left(p_types::text, 100), 'null') || ' is no array';
  else
    select format('%s: %s', left(t.type::text, 100), case
      when jsonb_typeof(t.type) <> 'object' then 'it is no object'
      when jsonb_typeof(t.type -> 'name') is distinct from 'string'
        or t.type ->> 'name' !~ '^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)+$'
        or length(t.type ->> 'name') > 100
        then 'a name is dot-separated lowercase words, up to 100 characters'
      when jsonb_typeof(t.type -> 'schema') not in ('object', 'null') then 'its schema is no object'
      else 'it stands there twice'
    end)
    into v_problem
    from (
      select e.type, count(*) over (partition by e.type ->> 'name') as times
      from jsonb_array_elements(p_types) as e (type)
    ) as t
    where jsonb_typeof(t.type) <> 'object'
      or jsonb_typeof(t.type -> 'name') is distinct from 'string'
      or t.type ->> 'name' !~ '^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)+$'
      or length(t.type ->> 'name') > 100
      or jsonb_typeof(t.type -> 'schema') not in ('object', 'null')
      or t.times > 1
    limit 1;
  end if;
  if v_problem is not null then
    raise exception using
      errcode = 'WH008',
      message = 'event types ' || v_problem,
      hint = 'Pass [{"name": "order.created", "description": "…", "schema": {…}}], each name once.';
  end if;
end;
$$;

comment on function webhookpub.check_event_types (jsonb) is
  'Raises WH008 for a list of event types that the catalog could not take.';
