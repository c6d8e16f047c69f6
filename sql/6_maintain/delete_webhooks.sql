-- Removes webhooks that were deleted so long ago that nothing of their history is kept.
--
-- Called by  webhookpub.maintain.
-- Locks      those webhooks, skipping those that somebody else holds.
-- Returns    how many, up to p_limit.

create or replace function webhookpub.delete_webhooks (
  p_limit integer default 1000,
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
declare
  -- Attempts leave by the day, so some are kept for up to a day longer.
  v_before constant timestamptz := p_now - interval '1 day' - (
    select greatest(s.event_retention, s.delivery_retention, s.attempt_retention)
    from webhookpub.settings as s
  );
  v_count bigint;
begin
  with deleted as (
    delete from webhookpub.webhooks as w
    where w.ctid = any (array(
      select w.ctid
      from webhookpub.webhooks as w
      where w.deleted_at <= v_before
        and not exists (
          select from webhookpub.delivery_history as h where h.webhook_id = w.id offset 0
        )
      order by w.deleted_at
      limit p_limit
      for update skip locked
    ))
    returning w.id
  ),
  -- Only now: whoever deletes a webhook may take long to commit, and leases write its pace.
  unpaced as (
    delete from webhookpub.paces as c
    where c.webhook_id = any (array(select d.id from deleted as d))
  )
  select count(*) into v_count from deleted as d;
  return v_count;
end;
$$;

comment on function webhookpub.delete_webhooks (integer, timestamptz) is
  'Removes up to p_limit webhooks that were deleted and have no history any more; returns how many.';
