--! Previous: sha1:25aca7d557571fb6771bc828ef6f125988047f34
--! Hash: sha1:23a950b36bc88f67097821efff202d8a29d99c41
--! Message: delivery ids in time

-- Ids of deliveries in the order of their creation. Older, random ones stay as they are:
-- they only sort among the others.

--! Included 2_fan_out/delivery_id.sql
-- Makes the id of a delivery: time first, so that ids are in the order of creation.
--
-- Called by  webhookpub.fan_out_events.
-- Returns    whd_, 12 hex digits of Unix milliseconds, 20 random ones.
--
-- The primary key is then the newest-first order that people ask for, and its inserts go
-- to the index's right edge, however large the table is.

create or replace function webhookpub.delivery_id (
  p_now timestamptz
)
  returns text
  language sql
  volatile
  parallel safe
return 'whd_'
  || lpad(to_hex((extract(epoch from p_now) * 1000)::bigint), 12, '0')
  || left(webhookpub.random_hex(), 20);

comment on function webhookpub.delivery_id (timestamptz) is
  'whd_ and 32 hex digits: the time in milliseconds, then random ones.';
--! EndIncluded 2_fan_out/delivery_id.sql
--! Included 2_fan_out/fan_out_events.sql
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
  with event_type as materialized (
    select t.name, webhookpub.type_patterns(t.name) as patterns
    from (select distinct e.type as name from unnest(p_events) as e) as t
  ),
  matched as materialized (
    select
      e.id as event_id,
      e.type as event_type,
      e.message_id,
      e.created_at as event_created_at,
      w.id as webhook_id,
      cardinality(w.retry_schedule) + 1 as max_attempts
    from unnest(p_events) as e
    join event_type as t on t.name = e.type
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
      webhookpub.delivery_id(c.at), m.webhook_id, m.event_id, m.event_type,
      m.event_created_at, m.message_id, m.max_attempts,
      c.at, c.at, c.at + s.delivery_retention
    from matched as m
    cross join webhookpub.settings as s
    cross join (select clock_timestamp() as at) as c
    on conflict (event_id, webhook_id) where replay_id is null do nothing
    returning d.event_id, d.webhook_id
  )
  -- Counted side by side: a join of the two would be guessed to be tiny.
  select
    b.event_id,
    array_agg(b.webhook_id order by b.webhook_id) filter (where not b.is_new),
    count(*) filter (where b.is_new)
  from (
    select m.event_id, m.webhook_id, false as is_new from matched as m
    union all
    select c.event_id, c.webhook_id, true from created as c
  ) as b
  group by b.event_id;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[]) is
  'Matches events against their users'' webhooks and inserts the first deliveries.';
--! EndIncluded 2_fan_out/fan_out_events.sql

revoke execute on function webhookpub.delivery_id (timestamptz) from public;
