-- Picks the suspects that may be tried now. Two workers in a row were lost with each of them
-- under way: one may be what kills workers, the others only have been there. So at most a tenth
-- of them are tried at once, in the whole database: innocents are soon through. Those that
-- another worker is lost with are tried one by one, with none of their like beside them; what a
-- worker is lost with then is the culprit (webhookpub.park_lost).
--
-- Called by  webhookpub.lease_deliveries; webhookpub.wake_deliveries, webhookpub.wake_suspects:
--            for all webhooks (null), only to look.
-- Locks      the choice, until the transaction ends; who does not get it has no suspects.
-- Returns    their ids, and which webhooks they are of, or null; and whether it is one alone.

create or replace function webhookpub.due_suspects (
  p_webhook_ids text[],
  p_now timestamptz,
  out ids text[],
  out webhook_ids text[],
  out alone boolean
)
  language plpgsql
  volatile
as $$
declare
  v_size integer;
begin
  -- By an index that is empty but for bad days; "is true" keeps the planner from any other.
  if not exists (
      select
      from webhookpub.queue as q
      where q.leased and q.suspicion > 0 and (q.due_at <= p_now) is true
    )
    or (p_webhook_ids is not null and not pg_catalog.pg_try_advisory_xact_lock(2003006834, 3))
  then
    return;
  end if;
  select
    case
      when bool_or(q.suspicion = 3 and q.due_at > p_now) then 0
      when bool_or(q.suspicion = 2 and q.due_at <= p_now) then 1
      else (count(*) filter (where q.suspicion > 1 or q.due_at <= p_now) + 9) / 10
    end - count(*) filter (where q.suspicion > 1 and q.due_at > p_now),
    count(*) filter (where q.suspicion > 1 or q.due_at <= p_now) <= 10
      or bool_or(q.suspicion = 2 and q.due_at <= p_now)
  into v_size, alone
  from webhookpub.queue as q
  where q.leased and q.suspicion > 0;
  select array_agg(c.delivery_id), array_agg(distinct c.webhook_id) into ids, webhook_ids
  from (
    select q.delivery_id, q.webhook_id
    from webhookpub.queue as q
    cross join lateral (
      select
      from webhookpub.webhooks as w
      cross join lateral webhookpub.standing(w, p_now) as s
      where w.id = q.webhook_id and s.room > 0
      offset 0
    ) as w
    where q.leased and q.suspicion > 0 and q.suspicion < 3 and (q.due_at <= p_now) is true
      and (p_webhook_ids is null or q.webhook_id = any (p_webhook_ids))
    order by q.suspicion desc, q.due_at
    limit greatest(v_size, 0)
  ) as c;
end;
$$;

comment on function webhookpub.due_suspects (text[], timestamptz) is
  'The deliveries of these webhooks (null: of all) that may be tried now though two workers were lost with them, and whether it is one alone.';
