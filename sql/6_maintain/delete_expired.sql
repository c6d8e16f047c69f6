-- Removes a batch of events and ended deliveries whose time has come; never a pending one.
--
-- Called by  webhookpub.maintain.
-- Returns    how many of each.
--
-- Ids of deliveries are in the order of time: it walks them from where it was, so that a round
-- with nothing to do reads nothing. Once a day it begins anew, for what was pending then.

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
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
declare
  v_retention constant interval := (select s.delivery_retention from webhookpub.settings as s);
  -- No delivery is older than its id says; least() is for retentions longer than history.
  v_before constant text := left(
    webhookpub.delivery_id(greatest(p_now - least(v_retention, interval '1000 years'), 'epoch')),
    16
  );
  v_from text;
  v_ids text[];
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

  update webhookpub.expiry as x
  set
    position = case when x.restart_at > p_now then x.position else '' end,
    restart_at = case when x.restart_at > p_now then x.restart_at else p_now + interval '1 day' end
  returning x.position into v_from;
  select array_agg(h.id) into v_ids
  from (
    select h.id
    from webhookpub.delivery_history as h
    where h.id > v_from and h.id < v_before
    order by h.id
    limit p_limit
  ) as h;
  deliveries := 0;
  if v_ids is null then
    return;
  end if;
  update webhookpub.expiry as x set position = v_ids[cardinality(v_ids)];
  delete from webhookpub.delivery_history as h
  where h.ctid = any (array(
    select h.ctid
    from webhookpub.delivery_history as h
    where h.id = any (v_ids) and h.status <> 'pending' and h.created_at + v_retention <= p_now
    for update skip locked
  ));
  get diagnostics deliveries = row_count;
end;
$$;

comment on function webhookpub.delete_expired (integer, timestamptz) is
  'Removes up to p_limit expired events and as many expired deliveries; returns how many.';
