-- Says whether a day of envelopes must be kept.
--
-- Called by  webhookpub.drop_partitions, about once a day; the last clause then reads
--            that day once.

create or replace function webhookpub.envelopes_are_needed (
  p_from timestamptz,
  p_to timestamptz
)
  returns boolean
  language sql
  stable
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
  select exists (
    select
    from webhookpub.queue as q
    cross join lateral (
      select h.event_created_at
      from webhookpub.delivery_history as h
      where h.id = q.delivery_id
      offset 0
    ) as h
    where h.event_created_at >= p_from and h.event_created_at < p_to
  ) or exists (
    select
    from webhookpub.envelopes as n
    join webhookpub.events as e on e.id = n.event_id
    where n.created_at >= p_from and n.created_at < p_to
  );
$$;

comment on function webhookpub.envelopes_are_needed (timestamptz, timestamptz) is
  'Whether an event or a pending delivery of that time is still there.';
