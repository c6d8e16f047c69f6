-- Leases due deliveries to a worker. It writes and returns next to nothing, so that it has
-- committed before anything big travels: webhookpub.lease_requests says what to POST.
--
-- Called by  the deliverer of a worker, for many webhooks at once.
-- Locks      each webhook's lease, for the length of this call; then the deliveries. Whatever
--            somebody else holds of it is skipped, never waited for.
-- Returns    one row for each leased delivery. The lease lasts 15 s longer than its request
--            may, so that its answer can be recorded. more: it was the last for which its
--            webhook had room, so there may be more that is due; holds_up: others wait for its
--            end. A row without a delivery says in how many milliseconds to ask again for a
--            webhook: somebody else held its lease, or its pace is spent.
--
-- The lease is due_at itself: an answer, a retry and a worker that died are all the same
-- thing, a row of the queue that is due or not.

create or replace function webhookpub.lease_deliveries (
  p_webhook_ids text[],
  p_limits integer[] default null
)
  returns table (
    webhook_id text,
    delivery_id text,
    attempt integer,
    started_at timestamptz,
    more boolean,
    holds_up boolean,
    wait_ms integer
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
declare
  v_leases record;
  v_now timestamptz;
  v_suspects record;
  v_due record;
begin
  if not webhookpub.delivery_is_on() then return; end if;
  -- A statement of its own: the next one must see what the last holder did.
  v_leases := webhookpub.hold_leases(p_webhook_ids, p_limits);
  v_now := clock_timestamp();
  v_suspects := webhookpub.due_suspects(v_leases.free, v_now);
  v_due := webhookpub.due_deliveries(v_leases.free, v_leases.limits, v_now, v_suspects.ids);
  if v_leases.held is not null or v_leases.has_pace then
    return query
      select w.webhook_id, null::text, null::integer, null::timestamptz, true, false, w.wait_ms
      from (
        select h.id, 20 from unnest(v_leases.held) as h (id)
        union all
        select * from webhookpub.spend_pace(v_leases.free, v_due.webhook_ids, v_now)
      ) as w (webhook_id, wait_ms);
  end if;
  return query
    update webhookpub.queue as q
    set
      leased = true,
      lost = q.lost + q.leased::integer,
      suspicion = case
        when not q.leased then 0
        when q.suspicion = 0 then 1
        when v_suspects.alone then 3
        else 2
      end,
      attempt = q.attempt + 1,
      last_attempt_at = v_now,
      due_at = d.leased_until
    from unnest(v_due.due, v_due.leased_until, v_due.more) as d (at, leased_until, more)
    -- They are locked, so they are where they were.
    where q.ctid = d.at
    returning q.webhook_id, q.delivery_id, q.attempt, v_now, d.more,
      q.ordering_key is not null and exists (
        select
        from webhookpub.queue as n
        where n.webhook_id = q.webhook_id and n.ordering_key = q.ordering_key
          and n.turn_at is not null
      ), null::integer;
end;
$$;

comment on function webhookpub.lease_deliveries (text[], integer[]) is
  'Leases due deliveries of these webhooks, at most p_limits of each, within max_in_flight and pace; lease_requests says what to POST.';
