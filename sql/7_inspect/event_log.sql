-- What was published and what became of it, newest first.
--
-- Called by  psql: one event, one user, or the last ones, with a limit.
--
-- Its order is that of two tables which have an index for it, or are small: the envelopes
-- of what was fanned out, and the events that wait for it. An index of events would be
-- paid for by every publisher.

create or replace view webhookpub.event_log
  with (security_invoker = true)
as
  select
    k.event_id, k.created_at, k.user_id, e.type as event_type, e.status,
    (
      select jsonb_object_agg(s.status, s.count)
      from (
        select d.status, count(*) as count
        from webhookpub.delivery_history as d
        where d.event_id = k.event_id
        group by d.status
      ) as s
    ) as deliveries,
    e.processed_at, e.attempts, e.last_error, e.retry_at, e.agent_id, e.conversation_id,
    e.labels, e.message_id, e.matched_webhook_ids, e.expires_at
  from (
    select n.event_id, n.created_at, n.user_id, 'pending'::webhookpub.event_status as kept
    from webhookpub.envelopes as n
    union all
    select e.id, e.created_at, e.user_id, e.status
    from webhookpub.events as e
  ) as k
  -- One look into an index for each; "offset 0" keeps the planner from joining.
  cross join lateral (
    select e.* from webhookpub.events as e where e.id = k.event_id offset 0
  ) as e
  where k.kept = 'pending'
  order by k.created_at desc;

comment on view webhookpub.event_log is
  'What was published and what became of it, newest first. Say which event or user, or add a limit.';
comment on column webhookpub.event_log.created_at is 'When it was published; the order of the view.';
comment on column webhookpub.event_log.status is
  'pending until fan-out; then processed (it matched) or no_match.';
comment on column webhookpub.event_log.deliveries is
  'How many of its deliveries, replays included, have which status; null: it has none.';
comment on column webhookpub.event_log.attempts is 'How often its fan-out was tried.';
comment on column webhookpub.event_log.last_error is 'Why its last fan-out failed.';
comment on column webhookpub.event_log.retry_at is
  'When fan-out tries it again after a failure.';
comment on column webhookpub.event_log.matched_webhook_ids is
  'The webhooks that it matched; explain_event says why not the others.';
comment on column webhookpub.event_log.expires_at is
  'When upkeep may remove it, unless it is pending.';
