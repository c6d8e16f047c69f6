-- Picks the suspects that may be tried now. Two workers in a row were lost with each of them
-- under way: one may be what kills workers, the others only have been there. So they are tried
-- a tenth at a time, and those that another worker is lost with, a tenth of that at a time, in
-- the whole database. Innocents are soon through; what a worker is lost with that was tried
-- alone is the culprit (webhookpub.park_lost).
--
-- Called by  webhookpub.lease_deliveries, which lets nobody choose beside it;
--            webhookpub.wake_deliveries, webhookpub.wake_suspects: for all webhooks (null).
-- Returns    their ids, and which webhooks they are of, or null; and how many may be under way
--            at once while these are.

create or replace function webhookpub.due_suspects (
  p_webhook_ids text[],
  p_now timestamptz,
  out ids text[],
  out webhook_ids text[],
  out trial_size integer
)
  language plpgsql
  volatile
  set plan_cache_mode = force_generic_plan
  set enable_hashjoin = off
  set enable_mergejoin = off
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_size integer;
  v_under_way integer;
begin
  -- By an index that is empty but for bad days.
  select (count(*) + 9) / 10 into v_size
  from webhookpub.deliveries as d
  where d.status = 'pending' and d.leased and d.lost_in_a_row > 0 and d.next_attempt_at <= p_now;
  if v_size = 0 then
    return;
  end if;
  -- As long as some of a trial are under way, its size holds.
  select count(*), coalesce(min(d.trial_size), v_size) into v_under_way, v_size
  from webhookpub.deliveries as d
  where d.status = 'pending' and d.leased and d.lost_in_a_row > 1 and d.next_attempt_at > p_now;
  select array_agg(c.id), array_agg(distinct c.webhook_id), min(c.size)
  into ids, webhook_ids, trial_size
  from (
    select
      s.id, s.webhook_id, s.most,
      row_number() over () as n,
      least(v_size, first_value(s.most) over ()) as size
    from (
      select d.id, d.webhook_id, coalesce((d.trial_size + 9) / 10, v_size) as most
      from webhookpub.deliveries as d
      where d.status = 'pending' and d.leased and d.lost_in_a_row > 0
        and d.next_attempt_at <= p_now
        and d.trial_size is distinct from 1
        and (p_webhook_ids is null or d.webhook_id = any (p_webhook_ids))
      order by most desc, d.next_attempt_at
    ) as s
    where exists (
      select
      from webhookpub.webhooks as w
      where w.id = s.webhook_id and w.enabled
        and webhookpub.requests_allowed(w, p_now) > (
          select count(*)
          from webhookpub.deliveries as b
          where b.webhook_id = w.id and b.status = 'pending' and b.leased
            and b.next_attempt_at > p_now
        )
    )
    limit greatest(v_size - v_under_way, 0)
  ) as c
  where c.n <= c.size - v_under_way and c.most >= c.size;
end;
$$;

comment on function webhookpub.due_suspects (text[], timestamptz) is
  'The deliveries of these webhooks (null: of all) that may be tried now though two workers were lost with them, and how many such may be under way at once.';
