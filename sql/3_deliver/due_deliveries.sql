-- Picks due deliveries of some webhooks, as many as each has room for, and locks them. Suspects
-- (webhookpub.due_suspects) come first, then those whose worker was lost.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    where they are in the queue, or null; whose they are; until when each would be
--            leased; and whether it is the last for which its webhook had room.

create or replace function webhookpub.due_deliveries (
  p_webhook_ids text[],
  p_limits integer[],
  p_now timestamptz,
  p_suspects text[],
  out due tid[],
  out webhook_ids text[],
  out leased_until timestamptz[],
  out more boolean[]
)
  language plpgsql
  volatile
as $$
declare
  v_timeout constant interval := (select s.request_timeout from webhookpub.settings as s);
begin
  -- From few webhooks to few deliveries, by one look into an index for each: "offset 0" and
  -- the order by keep the planner from any other way.
  select
    array_agg(f.at),
    array_agg(w.id),
    array_agg(p_now + interval '15 seconds' + coalesce(w.request_timeout, v_timeout)),
    array_agg(f.n = w.room)
  into due, webhook_ids, leased_until, more
  from unnest(p_webhook_ids, p_limits) as p (id, room)
  cross join lateral (
    select w.id, w.request_timeout, least(p.room, s.room) as room
    from webhookpub.webhooks as w
    cross join lateral webhookpub.standing(w, p_now) as s
    where w.id = p.id
    offset 0
  ) as w
  cross join lateral (
    select u.at, row_number() over () as n
    from (
      select s.at
      from (
        select q.ctid as at
        from webhookpub.queue as q
        -- By the primary key, never through all that the webhook waits for.
        where q.delivery_id = any (p_suspects) and q.webhook_id || '' = w.id
        limit greatest(w.room, 0)
        for update skip locked
      ) as s
      union all
      -- Those that two workers were lost with go as p_suspects only.
      select l.at
      from (
        select q.ctid as at
        from webhookpub.queue as q
        where q.webhook_id = w.id and q.leased and q.due_at <= p_now and q.suspicion = 0
        order by q.due_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as l
      union all
      select r.at
      from (
        select q.ctid as at
        from webhookpub.queue as q
        where q.webhook_id = w.id and not q.leased and q.due_at <= p_now
        order by q.due_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as r
    ) as u
    limit greatest(w.room, 0)
  ) as f;
end;
$$;

comment on function webhookpub.due_deliveries (text[], integer[], timestamptz, text[]) is
  'Locks due deliveries of these webhooks, at most p_limits of each, as far as its webhook has room; returns where they are in the queue.';
