-- Lets the worker's role run graphile-worker without being the owner of its tables. They
-- have row-level security without policies; an owner, or a member of the owner, could
-- change graphile-worker's functions and so run what it likes as webhookpub's owner.
--
-- Called by  webhookpub.install_roles.
-- Locks      graphile-worker's tables, for an instant, the first time only.

create or replace function webhookpub.grant_jobs ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  grant usage on schema graphile_worker to webhookpub_worker;
  grant execute on all functions in schema graphile_worker to webhookpub_worker;
  grant select on graphile_worker.migrations to webhookpub_worker;
  grant select, insert, update, delete on
    graphile_worker._private_jobs, graphile_worker._private_job_queues,
    graphile_worker._private_tasks, graphile_worker._private_known_crontabs
  to webhookpub_worker;

  if not exists (
    select
    from pg_policy as p
    where p.polrelid = 'graphile_worker._private_jobs'::regclass
      and p.polname = 'webhookpub_worker'
  ) then
    create policy webhookpub_worker on graphile_worker._private_jobs
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_job_queues
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_tasks
      to webhookpub_worker using (true);
    create policy webhookpub_worker on graphile_worker._private_known_crontabs
      to webhookpub_worker using (true);
  end if;
end;
$$;

comment on function webhookpub.grant_jobs () is
  'Gives webhookpub_worker graphile-worker''s jobs and queues.';
