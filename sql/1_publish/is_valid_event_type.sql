-- Says whether an event type is in the catalog.
--
-- Called by  applications; public.webhook_publish_tx asks the table itself.

create or replace function webhookpub.is_valid_event_type (
  name text
)
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from webhookpub.event_types as t
    where t.name = is_valid_event_type.name
  );
$$;

comment on function webhookpub.is_valid_event_type (text) is
  'Whether this event type may be published: whether it is in webhookpub.event_types.';
