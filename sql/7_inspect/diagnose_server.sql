-- What is wrong with the server for webhookpub, and what to do about it.
--
-- Called by  webhookpub.diagnose.

create or replace function webhookpub.diagnose_server ()
  returns table (topic text, finding text, advice text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select v.topic, v.finding, v.advice
  from (
    select min(a.xact_start) as since, (array_agg(a.pid order by a.xact_start))[1] as pid
    from pg_stat_activity as a
    where a.datname = current_database() and a.pid <> pg_backend_pid()
  ) as x
  cross join (
    select min(p.prepared) as since, (array_agg(p.gid order by p.prepared))[1] as gid
    from pg_prepared_xacts as p
    where p.database = current_database()
  ) as p
  cross join (
    select count(distinct f.proname) as count
    from pg_proc as f
    where f.pronamespace = to_regnamespace('public')
      and f.proname in ('webhook_publish_tx', 'webhook_publish_best_effort_tx', 'webhook_publish')
  ) as f
  cross join (select round(100 * pg_notification_queue_usage())) as n (percent)
  cross join lateral (
    values
      (current_setting('server_version_num')::integer < 150000,
        'server', format('it is PostgreSQL %s', current_setting('server_version')),
        'PostgreSQL 15 or newer is needed'),
      (pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean,
        'server', 'it is read-only',
        'connect to the primary, for example with target_session_attrs=read-write'),
      (not exists (select from pg_extension as e where e.extname = 'pgcrypto'),
        'extension', 'pgcrypto is missing: nothing can be signed',
        'create extension pgcrypto'),
      (f.count < 3,
        'schema', 'functions for publishing are gone from public',
        'run webhookpub migrate'),
      (pg_notification_queue_usage() > 0.25,
        'notifications', format('the queue of NOTIFY is %s %% full', n.percent),
        'end who listens in an open transaction: webhookpub.sessions, by transaction_began_at'),
      (x.since < clock_timestamp() - interval '1 hour',
        'transactions', format('process %s has one open since %s: dead rows pile up', x.pid, x.since),
        format('select pg_terminate_backend(%s)', x.pid)),
      (p.since < clock_timestamp() - interval '1 hour',
        'transactions', format('%L is prepared since %s: dead rows pile up', p.gid, p.since),
        format('rollback prepared %L, or commit it', p.gid))
  ) as v (holds, topic, finding, advice)
  where v.holds;
$$;

comment on function webhookpub.diagnose_server () is
  'What is wrong with the server for webhookpub: its version, extension, NOTIFY queue, transactions.';
