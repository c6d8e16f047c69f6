-- What waits and how long it has: one row.
--
-- Called by  psql; webhookpub.metrics.
--
-- Counting stops at 10,000, so that there is an answer when it matters most. Ordered by the
-- whole of an index: with row-level security, a constant status is not known to be one.

create or replace view webhookpub.backlog
  with (security_invoker = true)
as
  select
    e.count as events_pending,
    o.oldest_event,
    f.count as events_failing,
    case
      when p.count < 10000 then p.count
      -- What vacuum or analyze last found.
      else greatest(p.count, (
        select c.reltuples::bigint
        from pg_class as c
        where c.oid = 'webhookpub.queue'::regclass
      ))
    end as deliveries_pending,
    d.deliveries_due,
    d.oldest_due,
    l.deliveries_in_flight
  from (
    select count(*) as count
    from (
      select
      from webhookpub.events as e
      where e.status = 'pending'
      order by e.status, e.pending_user_id, e.expires_at
      limit 10000
    ) as w
  ) as e
  cross join (
    -- From one user to the next: each has its oldest event first.
    with recursive pending (user_id) as (
      (
        select e.pending_user_id
        from webhookpub.events as e
        where e.status = 'pending'
        order by e.status, e.pending_user_id
        limit 1
      )
      union all
      select (
        select e.pending_user_id
        from webhookpub.events as e
        where e.status = 'pending' and e.pending_user_id > p.user_id
        order by e.status, e.pending_user_id
        limit 1
      )
      from pending as p
      where p.user_id is not null
    )
    select statement_timestamp() - min(f.created_at) as oldest_event
    from (select p.user_id from pending as p limit 10000) as p
    cross join lateral (
      select e.created_at
      from webhookpub.events as e
      where e.status = 'pending' and e.pending_user_id = p.user_id
      order by e.status, e.pending_user_id, e.expires_at
      limit 1
    ) as f
  ) as o
  cross join (
    select count(w.last_error) as count
    from (
      select e.last_error
      from webhookpub.events as e
      where e.status = 'pending'
      order by e.status, e.pending_user_id, e.expires_at
      limit 1000
    ) as w
  ) as f
  cross join (
    select count(*) as count
    from (
      select
      from webhookpub.queue as q
      where q.attempt >= 0
      order by q.due_at
      limit 10000
    ) as w
  ) as p
  cross join (
    select
      count(*) as deliveries_due,
      statement_timestamp() - min(w.due_at) as oldest_due
    from (
      select q.due_at
      from webhookpub.queue as q
      -- One look into an index for each; "offset 0" keeps the planner from joining.
      cross join lateral (
        select
        from webhookpub.webhooks as w
        where w.id = q.webhook_id and w.enabled and w.circuit_opened_at is null
          and (w.paused_until > statement_timestamp()) is not true
        offset 0
      ) as w
      where q.attempt >= 0 and q.due_at <= statement_timestamp()
      order by q.due_at
      limit 10000
    ) as w
  ) as d
  cross join (
    select count(*) filter (where w.leased) as deliveries_in_flight
    from (
      select q.leased
      from webhookpub.queue as q
      where q.attempt >= 0 and q.due_at > statement_timestamp()
        -- The longest lease.
        and q.due_at <= statement_timestamp() + interval '45 seconds'
      order by q.due_at
      limit 10000
    ) as w
  ) as l;

comment on view webhookpub.backlog is
  'What waits and how long it has, in one row. Counts stop at 10,000, which then means that many or more.';
comment on column webhookpub.backlog.events_pending is
  'Events that wait for the fan-out.';
comment on column webhookpub.backlog.oldest_event is
  'How long the first of them has waited; more than a few seconds: no fan-out runs, or it fails.';
comment on column webhookpub.backlog.events_failing is
  'Of 1,000 of them, those whose fan-out has failed and is tried again: event_log.last_error says why.';
comment on column webhookpub.backlog.deliveries_pending is
  'Deliveries that have not ended; above 10,000 an estimate, from the last vacuum or analyze.';
comment on column webhookpub.backlog.deliveries_due is
  'Those that are due, of enabled webhooks whose circuits are closed and pauses over; they wait for a worker, for room, or for their pace.';
comment on column webhookpub.backlog.oldest_due is
  'How long the first of them has been due; more than a few seconds: no worker runs, or its webhook is slow.';
comment on column webhookpub.backlog.deliveries_in_flight is
  'Those that a worker has: their answers are waited for.';
