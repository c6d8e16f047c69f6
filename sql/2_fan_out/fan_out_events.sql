-- Matches events and inserts their first deliveries: one statement for the whole batch.
--
-- Called by  webhookpub.mark_fanned_out, public.webhook_publish.
-- Locks      none; a delivery that is there already is left alone.
-- Returns    for each event that matched: the webhooks, and how many deliveries are new.

create or replace function webhookpub.fan_out_events (
  p_events webhookpub.events[]
)
  returns table (
    event_id text,
    matched_webhook_ids text[],
    delivery_count bigint
  )
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  with matched as materialized (
    select
      e.id as event_id,
      e.type as event_type,
      e.message_id,
      e.created_at as event_created_at,
      w.id as webhook_id,
      cardinality(w.retry_schedule) + 1 as max_attempts
    from unnest(p_events) as e
    cross join lateral (select webhookpub.type_patterns(e.type) offset 0) as t (patterns)
    join webhookpub.webhooks as w on w.user_id = e.user_id
    where webhookpub.unmatched_clause(
      w,
      e,
      t.patterns,
      -- Parsed only for webhooks that filter by it.
      case when w.filter_data is not null
        then coalesce(e.envelope, webhookpub.stored_envelope(e.id, e.created_at))::jsonb -> 'data'
      end
    ) is null
  ),
  created as (
    insert into webhookpub.deliveries as d
      (id, webhook_id, event_id, event_type, event_created_at, message_id, max_attempts,
       next_attempt_at, created_at, expires_at)
    select
      'whd_' || webhookpub.random_hex(), m.webhook_id, m.event_id, m.event_type,
      m.event_created_at, m.message_id, m.max_attempts,
      c.at, c.at, c.at + s.delivery_retention
    from matched as m
    cross join webhookpub.settings as s
    cross join (select clock_timestamp() as at) as c
    on conflict (event_id, webhook_id) where replay_id is null do nothing
    returning d.event_id
  )
  select
    m.event_id,
    array_agg(m.webhook_id order by m.webhook_id),
    coalesce((select count(*) from created as c where c.event_id = m.event_id), 0)
  from matched as m
  group by m.event_id;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[]) is
  'Matches events against their users'' webhooks and inserts the first deliveries.';
