-- Removes a batch of events and ended deliveries whose time has come; never a pending one.
--
-- Called by  webhookpub.maintain.
-- Returns    how many of each.

create or replace function webhookpub.delete_expired (
  p_limit integer default 5000,
  p_now timestamptz default clock_timestamp(),
  out events bigint,
  out deliveries bigint
)
  language plpgsql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
begin
  delete from webhookpub.events as e
  where e.ctid = any (array(
    select x.ctid
    from (values ('processed'), ('no_match')) as s (status)
    cross join lateral (
      select e.ctid
      from webhookpub.events as e
      where e.status = s.status::webhookpub.event_status
        and e.pending_user_id is null
        and e.expires_at <= p_now
      order by e.status, e.pending_user_id, e.expires_at
      limit p_limit
      for update skip locked
    ) as x
    limit p_limit
  ));
  get diagnostics events = row_count;

  delete from webhookpub.deliveries as d
  where d.ctid = any (array(
    select x.ctid
    from webhookpub.deliveries as x
    where x.status <> 'pending' and x.expires_at <= p_now
    order by x.expires_at
    limit p_limit
    for update skip locked
  ));
  get diagnostics deliveries = row_count;
end;
$$;

comment on function webhookpub.delete_expired (integer, timestamptz) is
  'Removes up to p_limit expired events and as many expired deliveries; returns how many.';
