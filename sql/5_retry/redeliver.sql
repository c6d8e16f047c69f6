-- Sends an event again: to one webhook, or to every one that it was for. It is not matched
-- again; envelope and event id are the same, the signature is by the current secret.
--
-- Called by  psql, applications.
-- Returns    one row a webhook. outcome is
--            queued   a new delivery, delivery_id
--            pending  delivery_id is still under way, or waits for its next attempt
--            skipped  reason says why: the webhook is disabled or deleted
-- Raises     WH020.

create or replace function webhookpub.redeliver (
  p_event_id text,
  p_webhook_id text default null
)
  returns table (
    webhook_id text,
    delivery_id text,
    outcome text,
    reason text
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := clock_timestamp();
  v_created text[];
begin
  perform webhookpub.check_replay(p_event_id, p_webhook_id);

  with created as (
    insert into webhookpub.deliveries as d
      (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
       max_attempts, next_attempt_at, created_at, expires_at)
    select
      'whd_' || webhookpub.random_hex(), w.id, p_event_id, m.event_type,
      m.event_created_at, m.message_id, 'rep_' || webhookpub.random_hex(),
      cardinality(w.retry_schedule) + 1, v_now, v_now, v_now + s.delivery_retention
    from webhookpub.match_decision(p_event_id) as m
    join webhookpub.webhooks as w on w.id = m.webhook_id and w.enabled
    cross join webhookpub.settings as s
    where (p_webhook_id is null or w.id = p_webhook_id)
      and not exists (
        select
        from webhookpub.deliveries as f
        where f.event_id = p_event_id and f.webhook_id = w.id
          and f.replay_id is null and f.status = 'pending'
      )
    order by w.id
    on conflict (event_id, webhook_id) where replay_id is not null and status = 'pending'
      do nothing
    returning d.id
  )
  select array_agg(c.id) into v_created from created as c;

  -- A statement of its own: it sees the replay that somebody else has just committed.
  return query
  select
    w.id,
    l.id,
    case
      when not w.enabled then 'skipped'
      when l.id = any (v_created) then 'queued'
      else 'pending'
    end,
    case
      when w.deleted_at is not null then 'the webhook is deleted'
      when not w.enabled then 'the webhook is disabled: ' || w.disabled_reason
      when l.id = any (v_created) then null
      else 'this delivery has not ended'
    end
  from webhookpub.match_decision(p_event_id) as m
  join webhookpub.webhooks as w on w.id = m.webhook_id
  left join lateral (
    select d.id
    from webhookpub.deliveries as d
    where d.event_id = p_event_id and d.webhook_id = w.id and w.enabled
      and (d.replay_id is null or d.replay_id is not null)
    order by d.status = 'pending' desc, d.created_at desc
    limit 1
  ) as l on true
  where p_webhook_id is null or w.id = p_webhook_id
  order by w.created_at, w.id;

  perform webhookpub.add_deliver_jobs(array(
    select d.webhook_id from webhookpub.deliveries as d where d.id = any (v_created)
  ));
end;
$$;

comment on function webhookpub.redeliver (text, text) is
  'Sends an event again, to one webhook or to all that it was for; outcome is queued, pending (its last delivery has not ended) or skipped. Raises WH020.';
