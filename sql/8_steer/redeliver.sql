-- Sends an event again, to one webhook or to every one that it matched.
--
-- Called by  psql, applications.
-- Locks      nothing that anybody waits for, but for who replays the same event to the
--            same webhook at this moment.
-- Returns    one row a webhook: created (a new delivery), pending (a replay that is still
--            under way) or skipped, and why.
-- Raises     WH020, WH022.
--
-- Nothing is matched again: the webhooks are those of the decision when it was fanned out.
-- The bytes and the event's id are the same; secret, URL and schedule are today's.

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
  v_replay_id constant text := 'rpl_' || webhookpub.random_hex();
  v_event constant webhookpub.events := webhookpub.find_event(p_event_id);
  v_webhook_ids text[] := v_event.matched_webhook_ids;
  v_is_kept boolean;
begin
  if p_webhook_id is not null then
    select array_agg(w.id) into v_webhook_ids
    from webhookpub.webhooks as w
    where w.id = p_webhook_id and w.user_id = v_event.user_id;
    if v_webhook_ids is null then
      raise exception using
        errcode = 'WH020',
        message = format('no such webhook of the event''s user: %L', left(p_webhook_id, 100)),
        hint = 'List them with: select id, user_id, url from webhookpub.webhooks;';
    end if;
  end if;
  v_is_kept := webhookpub.stored_envelope(v_event.id, v_event.created_at) is not null;

  insert into webhookpub.deliveries
    (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
     max_attempts, next_attempt_at, created_at, expires_at)
  select
    webhookpub.delivery_id(v_now), w.id, v_event.id, v_event.type, v_event.created_at,
    v_event.message_id, v_replay_id, cardinality(w.retry_schedule) + 1, v_now, v_now,
    v_now + s.delivery_retention
  from webhookpub.webhooks as w
  cross join webhookpub.settings as s
  where w.id = any (v_webhook_ids)
    and w.id = any (v_event.matched_webhook_ids)
    and w.enabled
    and v_is_kept
  order by w.id
  on conflict (event_id, webhook_id) where replay_id is not null and status = 'pending'
    do nothing;

  return query
  with target as materialized (
    select
      w.id,
      w.created_at,
      case
        when w.id <> all (v_event.matched_webhook_ids)
          then 'unmatched: the event did not match it when it was fanned out'
        when w.deleted_at is not null then 'deleted'
        when not w.enabled then 'disabled: ' || w.disabled_reason
        when not v_is_kept then 'expired: the envelope is not kept any more'
      end as reason
    from webhookpub.webhooks as w
    where w.id = any (v_webhook_ids)
  )
  select
    t.id,
    d.id,
    case
      when t.reason is not null then 'skipped'
      when d.replay_id = v_replay_id then 'created'
      else 'pending'
    end,
    coalesce(t.reason, case
      when d.replay_id <> v_replay_id then format('a replay is under way since %s', d.created_at)
    end)
  from target as t
  left join lateral (
    select d.*
    from webhookpub.deliveries as d
    where t.reason is null
      and d.event_id = v_event.id and d.webhook_id = t.id and d.replay_id is not null
    order by d.status = 'pending' desc, d.id desc
    limit 1
  ) as d on true
  order by t.created_at, t.id;

  perform webhookpub.add_deliver_jobs(array(
    select d.webhook_id
    from webhookpub.deliveries as d
    where d.event_id = v_event.id and d.replay_id = v_replay_id
  ));
end;
$$;

comment on function webhookpub.redeliver (text, text) is
  'Sends an event again, to one webhook or to all that it matched; never matches again. Returns what became of each: created, pending or skipped. Raises WH020, WH022.';
