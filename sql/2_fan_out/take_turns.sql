-- Says which of the new deliveries of ordered webhooks have to wait for their turn.
--
-- Called by  webhookpub.fan_out_events, whose events webhookpub.keep_order has let through.
-- Returns    for each delivery the ordering key that it goes by, or null; and when it has to wait,
--            its event's time. Nulls when no event has an ordering key.

create or replace function webhookpub.take_turns (
  p_delivery_ids text[],
  p_webhook_ids text[],
  p_event_ids text[],
  p_events webhookpub.events[],
  out ordering_keys text[],
  out turns timestamptz[]
)
  language plpgsql
  stable
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
begin
  -- A few go by a plan that is kept.
  if cardinality(p_events) <= 20 then
    perform pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true);
    perform pg_catalog.set_config('enable_hashjoin', 'off', true);
    perform pg_catalog.set_config('enable_mergejoin', 'off', true);
  end if;
  select
    array_agg(t.ordering_key order by t.n),
    array_agg(case when t.place > 1 or t.follows then t.created_at end order by t.n)
  into ordering_keys, turns
  from (
    select
      p.n, e.ordering_key, e.created_at,
      row_number() over (
        partition by p.webhook_id, e.ordering_key order by e.created_at, p.delivery_id
      ) as place,
      exists (
        select
        from webhookpub.queue as q
        where q.webhook_id = p.webhook_id and q.ordering_key = e.ordering_key and q.turn_at is null
      ) as follows
    from unnest(p_delivery_ids, p_webhook_ids, p_event_ids)
      with ordinality as p (delivery_id, webhook_id, event_id, n)
    cross join lateral (
      select w.ordered from webhookpub.webhooks as w where w.id = p.webhook_id offset 0
    ) as w
    left join unnest(p_events) as e
      on e.id = p.event_id and e.ordering_key is not null and w.ordered
  ) as t;
end;
$$;

comment on function webhookpub.take_turns (text[], text[], text[], webhookpub.events[]) is
  'By which ordering key each of these new deliveries goes, and which have to wait for their turn.';
