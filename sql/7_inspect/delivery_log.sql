-- What happened to deliveries, newest first.
--
-- Called by  psql: table webhookpub.delivery_log limit 50; or where event_id = '…', where
--            webhook_id = '…', where user_id = '…'. Each of these walks an index.

create or replace view webhookpub.delivery_log
  with (security_invoker = true)
as
  select
    d.created_at,
    d.id as delivery_id,
    w.user_id,
    d.webhook_id,
    w.url,
    d.event_id,
    d.event_type,
    d.replay_id,
    d.status,
    d.attempts,
    d.max_attempts,
    d.last_status_code,
    d.last_error,
    d.last_attempt_at,
    d.next_attempt_at,
    d.delivered_at,
    d.message_id
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  -- First deliveries and replays have an index each; said so, both are used.
  where d.replay_id is null or d.replay_id is not null
  order by d.created_at desc;

comment on view webhookpub.delivery_log is
  'Deliveries, newest first, with the user and the URL that they are for.';
comment on column webhookpub.delivery_log.replay_id is
  'Null for the first delivery of an event; rep_… for a replay, test_… for one of test_webhook.';
comment on column webhookpub.delivery_log.last_error is
  'What went wrong in its last attempt; null when that succeeded.';
comment on column webhookpub.delivery_log.next_attempt_at is
  'When it is due; while a worker has it, when its lease ends.';
