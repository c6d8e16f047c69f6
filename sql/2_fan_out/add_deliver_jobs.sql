-- Makes sure that each of these webhooks has a job that will look for its due deliveries.
--
-- Called by  webhookpub.fan_out, webhookpub.wake_deliveries, and steering functions.
-- Locks      the webhooks' job rows, in the order of their ids.

create or replace function webhookpub.add_deliver_jobs (
  p_webhook_ids text[]
)
  returns void
  language sql
  volatile
as $$
  with wanted as materialized (
    select distinct w.id from unnest(p_webhook_ids) as w (id)
  ),
  added as materialized (
    select j.key
    from graphile_worker.add_jobs(array(
      select row(
        'webhook_deliver', json_build_object('webhook_id', w.id), null, null, null, w.id,
        null, null
      )::graphile_worker.job_spec
      from wanted as w
      order by w.id
    )) as j
    where exists (select from wanted)
  ),
  -- add_jobs leaves out a key whose job was locked in that very instant.
  missed as (
    select w.id from wanted as w where w.id not in (select a.key from added as a)
  )
  select count(*)
  from missed as m
  cross join lateral graphile_worker.add_job(
    'webhook_deliver', json_build_object('webhook_id', m.id)
  ) as j;
$$;

comment on function webhookpub.add_deliver_jobs (text[]) is
  'Adds a webhook_deliver job for each of these webhooks, unless one waits already.';
