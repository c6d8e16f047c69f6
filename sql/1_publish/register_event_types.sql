-- Adds event types to the catalog, and brings those that are there up to date. Removes none.
--
-- Called by  webhookpub catalog, for the types that an application declares.
-- Returns    each type with what became of it: added, changed or unchanged.
-- Raises     WH008.

create or replace function webhookpub.register_event_types (
  p_types jsonb
)
  returns table (name text, outcome text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform webhookpub.check_event_types(p_types);
  return query
    with declared as (
      select d.name, coalesce(d.description, '') as description, d.schema
      from jsonb_to_recordset(p_types) as d (name text, description text, schema jsonb)
    ),
    changed as (
      insert into webhookpub.event_types as t (name, description, schema)
      select d.name, d.description, d.schema
      from declared as d
      on conflict (name) do update
      set description = excluded.description, schema = excluded.schema
      where (t.description, t.schema) is distinct from (excluded.description, excluded.schema)
      returning t.name
    )
    select
      d.name,
      case
        when c.name is null then 'unchanged'
        when t.name is null then 'added'
        else 'changed'
      end
    from declared as d
    left join changed as c on c.name = d.name
    -- As it was before.
    left join webhookpub.event_types as t on t.name = d.name
    order by d.name;
end;
$$;

comment on function webhookpub.register_event_types (jsonb) is
  'Adds types to the catalog or updates them: [{"name", "description", "schema"}]. Returns what became of each. Raises WH008.';
