-- Copies the names of the catalog to settings: publishing then reads that one row.
--
-- Called by  the trigger event_types_copy_names.
-- Locks      the row of settings, so that of two changes at once the later one sees both.

create or replace function webhookpub.tg_event_types__copy_names ()
  returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform from webhookpub.settings as s for no key update;
  update webhookpub.settings as s
  set event_types = array(select t.name from webhookpub.event_types as t order by t.name);
  return null;
end;
$$;

comment on function webhookpub.tg_event_types__copy_names () is
  'Keeps settings.event_types equal to the names in webhookpub.event_types.';
