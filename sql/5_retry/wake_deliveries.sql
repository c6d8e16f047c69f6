-- Finds webhooks with due deliveries and room for a request, and wakes a worker: due
-- retries, expired leases, lost jobs and probes of open circuits are one and the same here.
--
-- Called by  webhookpub.wake.
-- Returns    how many webhooks were woken.

create or replace function webhookpub.wake_deliveries (
  p_since timestamptz
)
  returns bigint
  language plpgsql
  volatile
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_webhook_ids text[];
begin
  select array_agg(u.webhook_id) into v_webhook_ids
  from (
    select distinct d.webhook_id
    from webhookpub.deliveries as d
    where d.status = 'pending'
      and d.attempts >= 0
      and d.next_attempt_at <= v_now
      and d.next_attempt_at >= p_since
    union
    -- What became due before a circuit's pause was over is older than the window.
    select w.id
    from webhookpub.webhooks as w
    where w.circuit_retry_at <= v_now and w.enabled and exists (
      select
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending' and d.leased in (true, false)
        and d.next_attempt_at <= v_now
    )
  ) as u
  join webhookpub.webhooks as w on w.id = u.webhook_id and w.enabled
  -- One that has as many requests under way as it may is left alone: with the next answer
  -- its worker comes back for more.
  where webhookpub.requests_allowed(w, v_now) > (
    select count(*)
    from webhookpub.deliveries as b
    where b.webhook_id = u.webhook_id and b.status = 'pending' and b.leased
      and b.next_attempt_at > v_now
  );
  if v_webhook_ids is null then
    return 0;
  end if;
  perform webhookpub.add_deliver_jobs(v_webhook_ids);
  return cardinality(v_webhook_ids);
end;
$$;

comment on function webhookpub.wake_deliveries (timestamptz) is
  'Adds jobs for webhooks whose deliveries became due since then and that have room for a request.';
