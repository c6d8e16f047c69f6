-- Finds webhooks with due deliveries and room for a request, and wakes a worker: due
-- retries, expired leases, lost jobs and probes of open circuits are one and the same here.
--
-- Called by  webhookpub.wake.
-- Returns    how many webhooks were woken.
--
-- A tick looks at what became due last, and at no more of it than it can read in passing:
-- what it does not come to is found by the sweep, which looks at everything.

create or replace function webhookpub.wake_deliveries (
  p_since timestamptz
)
  returns bigint
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
  v_webhook_ids text[];
begin
  select array_agg(distinct q.webhook_id) into v_webhook_ids
  from (
    select q.webhook_id
    from webhookpub.queue as q
    where q.attempt >= 0 and q.due_at between p_since and v_now
    order by q.due_at desc
    limit 1000
  ) as q;
  -- What became due before a circuit's or a receiver's pause was over is older than that.
  select v_webhook_ids || array_agg(w.id) into v_webhook_ids
  from webhookpub.webhooks as w
  where w.enabled and greatest(w.circuit_retry_at, w.paused_until) between p_since and v_now;
  -- And so is what was lost and waits to be tried.
  select v_webhook_ids || s.webhook_ids into v_webhook_ids
  from webhookpub.due_suspects(null, v_now) as s;
  v_webhook_ids := v_webhook_ids || webhookpub.sweep_webhooks(p_since = '-infinity', v_now);

  select array_agg(w.id) into v_webhook_ids
  from (select distinct i.id from unnest(v_webhook_ids) as i (id)) as p
  -- One by one, by one look into each index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select w.id
    from webhookpub.webhooks as w
    cross join lateral webhookpub.standing(w, v_now) as s
    where w.id = p.id and w.enabled
      -- Its job waits already, which is all that most need while there is much to do; or a worker
      -- has just taken it, and will look.
      and not exists (
        select
        from graphile_worker.jobs as j
        where j.key = p.id collate "default"
          and (
            j.locked_at > v_now - interval '2 seconds'
            or (
              j.locked_at is null
              and j.attempts < j.max_attempts
              and j.run_at <= v_now
              and j.updated_at < v_now - interval '100 milliseconds'
            )
          )
      )
      and exists (
        select
        from webhookpub.queue as q
        where q.webhook_id = w.id and q.leased in (true, false) and q.due_at <= v_now
      )
      -- One that has as many requests under way as it may is left alone: with the next answer
      -- its worker comes back for more.
      and s.room > 0
    offset 0
  ) as w;
  if v_webhook_ids is null then
    return 0;
  end if;
  perform webhookpub.add_deliver_jobs(v_webhook_ids);
  return cardinality(v_webhook_ids);
end;
$$;

comment on function webhookpub.wake_deliveries (timestamptz) is
  'Adds jobs for webhooks whose deliveries became due since then and that have room for a request.';
