-- Makes sure that a task which is not of one webhook has a job that waits.
--
-- Called by  webhookpub.wake.
-- Locks      the right to add it, until the transaction ends; then its job's row. Skips what
--            somebody else holds of it, who may keep it: the next tick, a second later, looks
--            again.

create or replace function webhookpub.add_task_job (
  p_task text,
  p_priority integer default 0
)
  returns void
  language plpgsql
  volatile
as $$
begin
  if exists (
      select
      from graphile_worker.jobs as j
      where j.key = p_task
        and j.locked_at is null
        and j.attempts < j.max_attempts
        and j.run_at <= clock_timestamp()
    )
    -- Those below 256 are of jobs of webhooks.
    or not pg_try_advisory_xact_lock(2003006837, 256 + (hashtext(p_task) & 255))
  then
    return;
  end if;
  perform from graphile_worker._private_jobs as j where j.key = p_task for update skip locked;
  if found or not exists (select from graphile_worker.jobs as j where j.key = p_task) then
    perform graphile_worker.add_job(p_task, job_key => p_task, priority => p_priority);
  end if;
end;
$$;

comment on function webhookpub.add_task_job (text, integer) is
  'Adds a job of this task, unless one waits already or somebody holds it.';
