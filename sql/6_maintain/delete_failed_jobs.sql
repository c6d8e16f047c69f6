-- Removes graphile-worker jobs of ours that will never run again.
--
-- Called by  webhookpub.maintain.
-- Returns    how many. Nothing is lost with them: the tables say what is due.

create or replace function webhookpub.delete_failed_jobs (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language sql
  volatile
as $$
  select count(*)
  from graphile_worker.complete_jobs(array(
    select j.id
    from graphile_worker.jobs as j
    where j.task_identifier in ('webhook_fan_out', 'webhook_deliver', 'webhook_maintain')
      and (
        (j.attempts >= j.max_attempts and j.locked_at is null)
        -- Their worker was killed: jobs of ours take seconds, not hours.
        or j.locked_at < p_now - interval '4 hours'
      )
  ));
$$;

comment on function webhookpub.delete_failed_jobs (timestamptz) is
  'Removes jobs of our tasks that are out of attempts or whose worker was killed; returns how many.';
