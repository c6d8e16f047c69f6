-- What is wrong with webhookpub's own work, and what to do about it.
--
-- Called by  webhookpub.diagnose.

create or replace function webhookpub.diagnose_work ()
  returns table (topic text, finding text, advice text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select v.topic, v.finding, v.advice
  from webhookpub.backlog as b
  cross join webhookpub.settings as s
  cross join webhookpub.upkeep as u
  cross join (
    select count(*) as failing, max(j.last_error) as last_error
    from graphile_worker.jobs as j
    where j.task_identifier in ('webhook_deliver', 'webhook_fan_out', 'webhook_maintain')
      and j.last_error is not null
  ) as j
  cross join (
    select make_interval(secs => m.value::float8) as ahead
    from webhookpub.metrics as m
    where m.name = 'partitions_ahead_seconds'
  ) as p
  cross join (
    select count(*) as count
    from pg_stat_activity as a
    where a.datname = current_database() and a.application_name = 'webhookpub'
  ) as w
  cross join lateral (
    select date_trunc('second', b.oldest_event), date_trunc('second', b.oldest_due)
  ) as a (event, delivery)
  cross join lateral (
    values
      (not s.publish_enabled,
        'publishing', 'it is off: publishers write nothing',
        'update webhookpub.settings set publish_enabled = true'),
      (not webhookpub.delivery_is_on(),
        'deliveries', 'they are off: nothing is sent',
        'update webhookpub.settings set deliver_enabled = true'),
      (exists (select from webhookpub.publish_failures),
        'publishing', 'the best-effort path has failures',
        'look at webhookpub.publish_failures, then call webhookpub.retry_publish_failures()'),
      (w.count = 0,
        'workers', 'none is connected',
        'start one'),
      (b.oldest_event > '1 minute',
        'fan-out', format('the oldest pending event has waited for %s', a.event),
        'is a worker connected, and does its log say why?'),
      (b.events_failing > 0,
        'fan-out', format('%s events fail to be fanned out', b.events_failing),
        'look at last_error of those that are pending in webhookpub.event_log'),
      (b.oldest_due > '5 minutes',
        'deliveries', format('the oldest due delivery has waited for %s', a.delivery),
        'look at in_flight in webhookpub.webhook_health: a slow receiver, or too few workers'),
      (j.failing > 0,
        'jobs', format('%s tasks fail: %s', j.failing, j.last_error),
        'look at last_error in webhookpub.jobs'),
      (u.finished_at < clock_timestamp() - interval '10 minutes',
        'upkeep', format('it was last done at %s', u.finished_at),
        'is a worker connected, and does its log say why?'),
      (p.ahead < '2 days',
        'upkeep', format('partitions end in %s', date_trunc('second', p.ahead)),
        'select * from webhookpub.maintain(), which a worker should call each minute')
  ) as v (holds, topic, finding, advice)
  where v.holds;
$$;

comment on function webhookpub.diagnose_work () is
  'What is wrong with the work of webhookpub: publishing, workers, fan-out, deliveries, jobs, upkeep.';
