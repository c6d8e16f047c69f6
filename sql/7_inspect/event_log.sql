-- What happened to events, newest first.
--
-- Called by  psql: table webhookpub.event_log limit 50; or where event_id = '…', where
--            user_id = '…'. Each of these walks an index.

create or replace view webhookpub.event_log
  with (security_invoker = true)
as
  select
    e.created_at,
    e.id as event_id,
    e.user_id,
    e.type,
    e.status,
    c.delivered,
    c.pending,
    c.failed,
    e.last_error,
    e.agent_id,
    e.conversation_id,
    e.labels,
    e.message_id,
    e.matched_webhook_ids,
    e.processed_at
  from webhookpub.events as e
  cross join lateral (
    select
      count(*) filter (where d.status = 'delivered') as delivered,
      count(*) filter (where d.status = 'pending') as pending,
      count(*) filter (where d.status in ('failed', 'cancelled')) as failed
    from webhookpub.deliveries as d
    where d.event_id = e.id
      -- First deliveries and replays have an index each; said so, both are used.
      and (d.replay_id is null or d.replay_id is not null)
  ) as c
  order by e.created_at desc;

comment on view webhookpub.event_log is
  'Events, newest first, and how many deliveries each has. Not those of webhook_publish, which leaves none.';
comment on column webhookpub.event_log.delivered is 'How many of its deliveries succeeded, replays included.';
comment on column webhookpub.event_log.pending is 'How many of its deliveries have not ended.';
comment on column webhookpub.event_log.failed is 'How many of its deliveries failed or were cancelled.';
comment on column webhookpub.event_log.last_error is 'Why its last fan-out failed.';
