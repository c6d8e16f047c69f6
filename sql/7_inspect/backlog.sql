-- What waits, and how long it has: one row for events, one for deliveries.
--
-- Called by  psql; webhookpub.metrics.
--
-- It counts exactly, over the indexes of what is pending.

create or replace view webhookpub.backlog
  with (security_invoker = true)
as
  select
    'events' as what,
    count(*) as pending,
    count(*) filter (where e.retry_at is null or e.retry_at <= now()) as due,
    0::bigint as in_flight,
    count(*) filter (where e.retry_at > now()) as waiting,
    0::bigint as on_hold,
    min(e.created_at) as oldest_at,
    now() - min(e.created_at) as oldest_age
  from webhookpub.events as e
  where e.status = 'pending'
  union all
  select
    'deliveries',
    count(*),
    count(*) filter (where w.enabled and d.next_attempt_at <= now()),
    count(*) filter (where d.leased and d.next_attempt_at > now()),
    count(*) filter (where w.enabled and not d.leased and d.next_attempt_at > now()),
    count(*) filter (
      where not w.enabled and (not d.leased or d.next_attempt_at <= now())
    ),
    min(d.created_at),
    now() - min(d.created_at)
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  where d.status = 'pending';

comment on view webhookpub.backlog is
  'Pending events and deliveries: how many, and since when. pending = due + in_flight + waiting + on_hold.';
comment on column webhookpub.backlog.what is 'events (for fan-out) or deliveries.';
comment on column webhookpub.backlog.due is
  'To be taken now. Of deliveries: those above max_in_flight wait here, too.';
comment on column webhookpub.backlog.in_flight is 'A worker has it.';
comment on column webhookpub.backlog.waiting is 'For its next attempt, after a failure.';
comment on column webhookpub.backlog.on_hold is 'Until its webhook is enabled.';
comment on column webhookpub.backlog.oldest_at is 'When the oldest of them was made.';
