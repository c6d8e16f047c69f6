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
  v_created text[];
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

  -- The queue first: there, one replay of an event is pending for a webhook.
  with queued as (
    insert into webhookpub.queue as q (delivery_id, webhook_id, due_at, replay_of)
    select webhookpub.delivery_id(v_now), w.id, v_now, v_event.id
    from webhookpub.webhooks as w
    where w.id = any (v_webhook_ids)
      and w.id = any (v_event.matched_webhook_ids)
      and w.enabled
      and v_is_kept
    order by w.id
    on conflict (replay_of, webhook_id) where replay_of is not null do nothing
    returning q.delivery_id, q.webhook_id
  ),
  created as (
    insert into webhookpub.delivery_history as h
      (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
       max_attempts, created_at)
    select
      q.delivery_id, q.webhook_id, v_event.id, v_event.type, v_event.created_at,
      v_event.message_id, v_replay_id, cardinality(w.retry_schedule) + 1, v_now
    from queued as q
    join webhookpub.webhooks as w on w.id = q.webhook_id
    returning h.webhook_id
  )
  select array_agg(c.webhook_id) into v_created from created as c;

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
    select h.id, h.replay_id, h.created_at
    from webhookpub.delivery_history as h
    where t.reason is null
      and h.event_id = v_event.id and h.webhook_id || '' = t.id and h.replay_id is not null
    order by h.status = 'pending' desc, h.id desc
    limit 1
  ) as d on true
  order by t.created_at, t.id;

  perform webhookpub.add_deliver_jobs(v_created);
end;
$$;

comment on function webhookpub.redeliver (text, text) is
  'Sends an event again, to one webhook or to all that it matched; never matches again. Returns what became of each: created, pending or skipped. Raises WH020, WH022.';
