-- Makes sure that each of these webhooks has a job that will look for its due deliveries.
--
-- Called by  webhookpub.fan_out, webhookpub.wake_deliveries, and steering functions.
-- Locks      the right to add jobs of these webhooks, until the transaction ends; then
--            their job rows, those that are there and those that are new. Skips whatever
--            somebody else holds of it.
--
-- A job that has been waiting for a while goes on waiting: workers are busy, and it will
-- find what is new. Without that each batch would rewrite the jobs of all webhooks, and
-- each look at a key would wade through the versions of before. A job of this instant is
-- renewed: else a worker could take it before what it is for has been committed. If one
-- takes an old one just now, the next tick, a second later, adds another; only what was
-- committed more than 30 s after it became due waits for the sweep.
--
-- A job that somebody holds is being taken or completed, many at once and in no order, or is
-- being added, beside jobs that were there. To wait for it could end in a deadlock, which no
-- worker outlives: it gets another beside it.
--
-- A transaction that sees a snapshot adds none: a job that has changed since would be an error
-- (40001) of whoever called, for a hint. The next tick adds it. Nor does anybody while nothing may
-- be sent: a worker would take the job in vain, and the next tick add another.

create or replace function webhookpub.add_deliver_jobs (
  p_webhook_ids text[]
)
  returns void
  language sql
  volatile
  -- Keys are looked up one by one, whatever stale statistics say, and by graphile-worker's
  -- index, whose collation is the database's.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
  with needed as materialized (
    select
      i.id,
      json_build_object('webhook_id', i.id, 'user_id', (
        -- Whose it is, so that a worker can share fairly.
        select w.user_id from webhookpub.webhooks as w where w.id = i.id
      )) as payload
    from (select distinct p.id from unnest(p_webhook_ids) as p (id)) as i
    where current_setting('transaction_isolation') = 'read committed' and webhookpub.delivery_is_on()
      and not exists (
        select
        from graphile_worker.jobs as j
        where j.key = i.id collate "default"
          and j.locked_at is null and j.attempts < j.max_attempts
          and j.run_at <= clock_timestamp()
          and j.updated_at < clock_timestamp() - interval '100 milliseconds'
      )
  ),
  own as materialized (
    select n.id, n.payload
    from needed as n
    -- Few locks, however many webhooks.
    where pg_try_advisory_xact_lock(2003006837, hashtext(n.id) & 255)
  ),
  ours as materialized (
    select j.key
    from graphile_worker._private_jobs as j
    where j.key = any (array(select w.id collate "default" from own as w))
    for update skip locked
  ),
  free as materialized (
    select w.id, w.payload
    from own as w
    where w.id in (select o.key collate "C" from ours as o)
      or not exists (select from graphile_worker.jobs as j where j.key = w.id collate "default")
  ),
  added as materialized (
    select j.key
    from graphile_worker.add_jobs(array(
      select row('webhook_deliver', f.payload, null, null, null, f.id, null, null)
        ::graphile_worker.job_spec
      from free as f
      order by f.id collate "C"
    )) as j
    where exists (select from free)
  ),
  -- add_jobs, too, leaves out a key whose job was taken in that very instant.
  missed as (
    select n.payload from needed as n where n.id not in (select a.key collate "C" from added as a)
  )
  select count(*)
  from missed as m
  cross join lateral graphile_worker.add_job('webhook_deliver', m.payload) as j;
$$;

comment on function webhookpub.add_deliver_jobs (text[]) is
  'Adds a webhook_deliver job for each of these webhooks, unless one waits already.';
