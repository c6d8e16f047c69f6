-- Fans a batch out: matches its events, inserts their first deliveries, moves their bytes to
-- where they are kept, and marks them processed or no_match.
--
-- Called by  webhookpub.fan_out_batch, public.webhook_publish.
-- Locks      the events, which the caller has locked; a delivery that is there already is
--            left alone.
-- Returns    how many deliveries are new, the webhooks for which some wait, and those that are
--            leased already (webhookpub.queue_deliveries).
-- Raises     WH023 when matching takes too long.
--
-- It goes by a plan that is kept: for a few events planning takes longer than the rest, and for many
-- they would all be copied into the plan. It may have been made when tables were small: so it looks up
-- row by row, and never joins a whole table.

create or replace function webhookpub.fan_out_events (
  p_events webhookpub.events[],
  p_room integer default 0,
  out delivery_count bigint,
  out webhook_ids text[],
  out leased_ids text[],
  out leased_webhook_ids text[],
  out leased_at timestamptz
)
  language plpgsql
  volatile
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_created record;
  v_keys text[];
  v_turns timestamptz[];
  -- To match in: two seconds, and for an event alone twice as much with each try.
  v_until constant timestamptz := v_now + interval '2 seconds' * case
    when cardinality(p_events) = 1 then 2 ^ least(p_events[1].attempts, 4)
    else 1
  end;
begin
  with event_type as materialized (
    select t.name, webhookpub.type_patterns(t.name) as patterns
    from (select distinct e.type as name from unnest(p_events) as e) as t
  ),
  matched as materialized (
    select
      e.id, e.type, e.message_id, e.created_at, i.prefix, w.ids, w.all_attempts,
      -- Only such a one may have deliveries already: somebody has set it back to pending.
      e.envelope is null as is_old
    from unnest(p_events) as e
    cross join lateral (
      select webhookpub.first_delivery_prefix(e.id, e.created_at) as prefix offset 0
    ) as i
    join event_type as t on t.name = e.type
    -- Parsed once an event, and only for users with a webhook that filters by it.
    left join lateral (
      select coalesce(e.envelope, webhookpub.stored_envelope(e.id, e.created_at))::jsonb -> 'data'
        as data
      where exists (
        select
        from webhookpub.webhooks as w
        where w.user_id = e.user_id and w.enabled and w.filter_data is not null
      )
      offset 0
    ) as d on true
    -- Event by event, by one look into the index.
    cross join lateral (
      select
        array_agg(w.id order by w.id) as ids,
        array_agg(cardinality(w.retry_schedule) + 1 order by w.id) as all_attempts
      from (
        select w.id, w.retry_schedule
        from webhookpub.webhooks as w
        where w.user_id = e.user_id
          and webhookpub.unmatched_clause(w, e, t.patterns, d.data, v_until) is null
        offset 0 -- Or the order may lead through all webhooks.
      ) as w
    ) as w
  ),
  created as (
    insert into webhookpub.delivery_history as h
      (id, webhook_id, event_id, event_type, event_created_at, message_id, max_attempts,
       created_at)
    select
      i.delivery_id, m.webhook_id, m.id, m.type, m.created_at, m.message_id, m.max_attempts, v_now
    from (
      -- Not in "from", where each event would have a table made for its webhooks.
      select m.*, unnest(m.ids) as webhook_id, unnest(m.all_attempts) as max_attempts
      from matched as m
    ) as m
    cross join lateral (select m.prefix || substr(m.webhook_id, 4, 12) as delivery_id) as i
    -- A look for each that may be there, which is no join; "on conflict" would write a second
    -- record for each row.
    where case
      when m.is_old
        then (select h.id from webhookpub.delivery_history as h where h.id = i.delivery_id) is null
      else true
    end
    order by i.delivery_id
    returning h.id, h.webhook_id, h.event_id
  ),
  moved as (
    insert into webhookpub.envelopes (event_id, created_at, user_id, body)
    select p.id, p.created_at, p.user_id, p.envelope
    from unnest(p_events) as p
    where p.envelope is not null
  ),
  marked as (
    update webhookpub.events as e
    set
      status = (case when m.ids is null then 'no_match' else 'processed' end)::webhookpub.event_status,
      matched_webhook_ids = coalesce(m.ids, '{}'),
      pending_user_id = null,
      envelope = null,
      attempts = e.attempts + 1,
      retry_at = null,
      processed_at = clock_timestamp()
    from matched as m
    where e.id = m.id
  )
  select
    array_agg(c.id) as ids, array_agg(c.webhook_id) as webhook_ids, array_agg(c.event_id) as event_ids
  into v_created
  from created as c;
  delivery_count := coalesce(cardinality(v_created.ids), 0);
  if delivery_count > 0 then
    leased_at := v_now;
    if exists (select from unnest(p_events) as e where e.ordering_key is not null) then
      select t.ordering_keys, t.turns into v_keys, v_turns
      from webhookpub.take_turns(
        v_created.ids, v_created.webhook_ids, v_created.event_ids, p_events
      ) as t;
    end if;
    select q.webhook_ids, q.leased_ids, q.leased_webhook_ids
    into webhook_ids, leased_ids, leased_webhook_ids
    from webhookpub.queue_deliveries(
      v_created.ids, v_created.webhook_ids, v_keys, v_turns, p_room, v_now
    ) as q;
  end if;
end;
$$;

comment on function webhookpub.fan_out_events (webhookpub.events[], integer) is
  'Matches events against their users'' webhooks, inserts the first deliveries and marks the events processed or no_match. Raises WH023 when that takes too long.';
