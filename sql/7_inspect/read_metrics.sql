-- What webhookpub.metrics says, for workers, which may not read the tables behind it.
--
-- Called by  a worker that is asked for /metrics.

create or replace function webhookpub.read_metrics ()
  returns table (
    name text,
    labels jsonb,
    value numeric
  )
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select m.name, m.labels, m.value from webhookpub.metrics as m;
$$;

comment on function webhookpub.read_metrics () is
  'The rows of webhookpub.metrics, for workers, which may not read the tables behind it.';
