-- Reads the jobs of webhookpub's tasks for those who may not look into graphile-worker's schema.
-- Of a host's own jobs nothing, and of none its payload.
--
-- Called by  the view webhookpub.jobs.

create or replace function webhookpub.read_jobs ()
  returns table (
    job_id text,
    task text,
    webhook_id text,
    run_at timestamptz,
    locked_at timestamptz,
    locked_by text,
    attempts integer,
    max_attempts integer,
    last_error text
  )
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select
    j.id::text,
    j.task_identifier,
    case when j.task_identifier = 'webhook_deliver' then j.key end,
    j.run_at,
    j.locked_at,
    j.locked_by,
    j.attempts::integer,
    j.max_attempts::integer,
    j.last_error
  from graphile_worker.jobs as j
  where j.task_identifier in ('webhook_deliver', 'webhook_fan_out', 'webhook_maintain');
$$;

comment on function webhookpub.read_jobs () is
  'The rows of webhookpub.jobs, for those who may not look into graphile-worker''s schema.';
