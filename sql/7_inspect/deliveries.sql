-- Every delivery: one event on its way to one webhook.
--
-- Called by  psql, applications: of one webhook, one event, one status; webhookpub.delivery_log
--            has them newest first.
--
-- In two halves, so that what is pending is found by way of the queue, and what has ended
-- without looking there.

create or replace view webhookpub.deliveries
  with (security_invoker = true)
as
  select
    h.id, q.webhook_id, h.event_id, h.event_type, h.event_created_at, h.message_id, h.replay_id,
    'pending' as status, q.leased, q.attempt as attempts, q.lost, h.max_attempts,
    case when q.turn_at is null then q.due_at end as next_attempt_at,
    q.last_status_code, q.last_error, q.last_attempt_at,
    h.delivered_at, h.created_at,
    h.created_at + (select s.delivery_retention from webhookpub.settings as s) as expires_at
  from webhookpub.queue as q
  join webhookpub.delivery_history as h
    on h.id = q.delivery_id and h.webhook_id = q.webhook_id
  union all
  select
    h.id, h.webhook_id, h.event_id, h.event_type, h.event_created_at, h.message_id, h.replay_id,
    h.status, false, h.attempts, h.lost, h.max_attempts,
    null::timestamptz, h.last_status_code, h.last_error, h.last_attempt_at,
    h.delivered_at, h.created_at,
    h.created_at + (select s.delivery_retention from webhookpub.settings as s)
  from webhookpub.delivery_history as h
  where h.status <> 'pending';

comment on view webhookpub.deliveries is
  'Every delivery, first, replay or test: what and for whom, and how it stands.';
comment on column webhookpub.deliveries.event_created_at is
  'The partition key of its envelope.';
comment on column webhookpub.deliveries.replay_id is
  'Null for the first delivery; rpl_… names the call that replayed it, test_… a test.';
comment on column webhookpub.deliveries.status is
  'pending; then delivered, failed (no attempt left, or gone) or cancelled (webhook deleted, or skip).';
comment on column webhookpub.deliveries.leased is
  'A worker has it until next_attempt_at; then it is due again.';
comment on column webhookpub.deliveries.attempts is
  'Attempts begun; the number of the last one, by which its answer is fenced.';
comment on column webhookpub.deliveries.lost is
  'Attempts that had no answer, for the worker was lost or gave it back; they do not count against max_attempts.';
comment on column webhookpub.deliveries.next_attempt_at is
  'When it is due, or, while it is leased, when the lease ends; null unless it is pending, and while it waits for its turn.';
comment on column webhookpub.deliveries.expires_at is
  'When upkeep may remove it, unless it is pending.';
