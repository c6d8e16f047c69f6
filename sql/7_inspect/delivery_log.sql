-- Every delivery and how it stands, newest first.
--
-- Called by  psql: of one event, one webhook or one user, or the last ones, with a limit.
--
-- Ids are in the order of time: for first deliveries that of their events, else their own.

create or replace view webhookpub.delivery_log
  with (security_invoker = true)
as
  select
    d.id as delivery_id, d.created_at, d.event_id, d.event_type, d.webhook_id, w.user_id,
    w.url, d.status,
    case
      when d.status <> 'pending' then null
      when q.leased and q.due_at > statement_timestamp() then 'answer'
      when q.turn_at is not null then 'turn'
      when q.due_at > statement_timestamp() and w.enabled then 'next attempt'
      else coalesce(
        -- Most often the webhook's row says it.
        webhookpub.webhook_waits_for(w, true, null, statement_timestamp()),
        webhookpub.webhook_waits(d.webhook_id),
        'worker'
      )
    end as waits_for,
    case
      when q.turn_at is not null then (
        select h.delivery_id
        from webhookpub.queue as h
        where h.webhook_id = q.webhook_id
          and h.ordering_key = q.ordering_key
          and h.turn_at is null
      )
    end as waits_for_delivery_id,
    coalesce(q.attempt, d.attempts) as attempts, d.max_attempts,
    case when q.turn_at is null then q.due_at end as next_attempt_at,
    coalesce(q.last_status_code, d.last_status_code) as last_status_code,
    coalesce(q.last_error, d.last_error) as last_error,
    coalesce(q.last_attempt_at, d.last_attempt_at) as last_attempt_at,
    d.delivered_at, d.replay_id, d.message_id,
    d.created_at + (select s.delivery_retention from webhookpub.settings as s) as expires_at
  from webhookpub.delivery_history as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  left join webhookpub.queue as q on q.delivery_id = d.id
  order by d.id desc;

comment on view webhookpub.delivery_log is
  'Every delivery and how it stands, newest first. Say which event, webhook or user, or add a limit; sorting it anew reads all of it.';
comment on column webhookpub.delivery_log.url is 'Where it goes, as the webhook has it now.';
comment on column webhookpub.delivery_log.status is
  'pending; then delivered, failed (no attempt left, or gone) or cancelled (webhook deleted, or skip).';
comment on column webhookpub.delivery_log.waits_for is
  'What a pending one waits for: an answer to its request, its turn, its next attempt (next_attempt_at), an enabled webhook, a secret, a closed circuit, the end of a pause that its receiver asked for, its pace, room among max_in_flight, delivery to be on, or a worker.';
comment on column webhookpub.delivery_log.waits_for_delivery_id is
  'Whose turn it is, while it waits for its own: the delivery before it with the same ordering key that has not ended.';
comment on column webhookpub.delivery_log.attempts is 'Attempts begun; the table attempts has each of them.';
comment on column webhookpub.delivery_log.next_attempt_at is
  'When it is due, or, while it waits for an answer, when that counts as lost.';
comment on column webhookpub.delivery_log.replay_id is
  'Null for the first delivery of an event; rpl_… or test_… for a replay or a test.';
comment on column webhookpub.delivery_log.expires_at is
  'When upkeep may remove it, unless it is pending.';
