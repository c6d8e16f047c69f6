-- Picks the one delivery that may be tried alone now. Two workers in a row were lost with it
-- under way: it may be what killed them, or only have been there. One such delivery at a
-- time, in the whole database, so that the next loss tells.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      until the lease has committed, every other choice of this kind; it is not
--            waited for.
-- Returns    its id, or null.

create or replace function webhookpub.due_suspect (
  p_webhook_ids text[],
  p_now timestamptz
)
  returns text
  language plpgsql
  volatile
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
begin
  -- An index that is empty but for bad days says so.
  if not exists (
    select
    from webhookpub.deliveries as d
    where d.status = 'pending' and d.leased and d.lost_in_a_row > 0 and d.next_attempt_at <= p_now
  ) then
    return null;
  end if;
  if not pg_catalog.pg_try_advisory_xact_lock(2003006834, 3) then
    return null;
  end if;
  return (
    select d.id
    from webhookpub.deliveries as d
    join webhookpub.webhooks as w on w.id = d.webhook_id
    where d.status = 'pending' and d.leased and d.lost_in_a_row = 1 and d.next_attempt_at <= p_now
      and d.webhook_id = any (p_webhook_ids)
      and w.enabled
      and webhookpub.requests_allowed(w, p_now) > (
        select count(*)
        from webhookpub.deliveries as b
        where b.webhook_id = d.webhook_id and b.status = 'pending' and b.leased
          and b.next_attempt_at > p_now
      )
      and not exists (
        select
        from webhookpub.deliveries as o
        where o.status = 'pending' and o.leased and o.lost_in_a_row > 1
      )
    order by d.next_attempt_at
    limit 1
  );
end;
$$;

comment on function webhookpub.due_suspect (text[], timestamptz) is
  'The delivery of one of these webhooks that may be tried alone now, for two workers were lost with it; null if there is none, or another is being tried.';
