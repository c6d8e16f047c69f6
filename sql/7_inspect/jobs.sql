-- The jobs of webhookpub's tasks, which graphile-worker has.
--
-- Called by  psql.

create or replace view webhookpub.jobs
  with (security_invoker = true)
as
  select
    j.job_id, j.task, j.webhook_id, j.run_at, j.locked_at, j.locked_by, j.attempts,
    j.max_attempts, j.last_error
  from webhookpub.read_jobs() as j;

comment on view webhookpub.jobs is
  'The jobs of webhookpub''s tasks, and no others: whether they run, and why they failed.';
comment on column webhookpub.jobs.job_id is 'graphile-worker''s id of it.';
comment on column webhookpub.jobs.task is 'webhook_fan_out, webhook_deliver or webhook_maintain.';
comment on column webhookpub.jobs.webhook_id is
  'Whose deliveries it is for; null: it is no webhook_deliver, or one that goes by another key.';
comment on column webhookpub.jobs.run_at is 'When it is due.';
comment on column webhookpub.jobs.locked_at is 'Since when a worker has it; null: none has.';
comment on column webhookpub.jobs.locked_by is 'Which.';
comment on column webhookpub.jobs.attempts is 'How often it was begun; above 1 it has failed.';
comment on column webhookpub.jobs.max_attempts is 'How often it may be; upkeep removes it then.';
