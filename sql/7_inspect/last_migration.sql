-- Says which migration was the last: a worker refuses a schema of another than it brings.
--
-- Called by  workers, when they start and whenever they are asked whether they are ready; migrate.

create or replace function webhookpub.last_migration ()
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select m.name || ' ' || m.hash
  from webhookpub.migrations as m
  order by m.name desc
  limit 1;
$$;

comment on function webhookpub.last_migration () is
  'The number and the hash of the last of webhookpub''s migrations that ran here.';
