--! Previous: sha1:b3d8e2ea7eb33659b2d1877e1528e68d21950a57
--! Hash: sha1:2d347c6dcb3d9b9a356033a06ea0077f654bc4b7
--! Message: suspects by primary key

-- Without suspects, PostgreSQL 15 read all deliveries of a webhook for each lease.

--! Included 3_deliver/due_deliveries.sql
-- Picks due deliveries of some webhooks, as many as each has room for, and locks them.
-- One whose circuit is open has none; when the pause is over, one, as a probe. Suspects
-- (webhookpub.due_suspects) come first. A webhook without a secret, as after a restore that
-- left them out, waits for webhookpub.rotate_secret: nothing goes out unsigned.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    their ids, or null; the webhooks of which there may be more: those that used
--            up their room; and between when their events were published.

create or replace function webhookpub.due_deliveries (
  p_webhook_ids text[],
  p_limits integer[],
  p_now timestamptz,
  p_suspects text[],
  out due text[],
  out cut_short text[],
  out first_event_at timestamptz,
  out last_event_at timestamptz
)
  language plpgsql
  volatile
  -- From few webhooks to few deliveries, by index, whatever stale statistics say: there is
  -- only this one plan, and making it takes longer than the rest.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
begin
  select
    array_agg(f.id), array_agg(w.id) filter (where f.n = w.room),
    min(f.event_created_at), max(f.event_created_at)
  into due, cut_short, first_event_at, last_event_at
  from unnest(p_webhook_ids, p_limits) as p (id, room)
  cross join lateral (
    select w.id, least(p.room, webhookpub.requests_allowed(w, p_now) - (
      -- In an order, so that no plan reads all that the webhook ever got.
      select count(*)
      from (
        select
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and d.leased
          and d.next_attempt_at > p_now
        order by d.next_attempt_at
        limit w.max_in_flight
      ) as d
    )) as room
    from webhookpub.webhooks as w
    where w.id = p.id and w.enabled
      and exists (
        select from webhookpub.secrets as k where k.webhook_id = w.id and k.expires_at is null
      )
    offset 0
  ) as w
  cross join lateral (
    select u.id, u.event_created_at, row_number() over () as n
    from (
      select s.id, s.event_created_at
      from (
        select d.id, d.event_created_at
        from webhookpub.deliveries as d
        where d.id = any (p_suspects)
          -- By the primary key, never through all that the webhook has ever had.
          and d.webhook_id || '' = w.id
        limit greatest(w.room, 0)
        for update skip locked
      ) as s
      union all
      -- Those whose worker was lost come first; whom two were lost with, only as p_suspects.
      select l.id, l.event_created_at
      from (
        select d.id, d.event_created_at
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and d.leased
          and d.next_attempt_at <= p_now and d.lost_in_a_row = 0
        order by d.next_attempt_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as l
      union all
      select r.id, r.event_created_at
      from (
        select d.id, d.event_created_at
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and not d.leased
          and d.next_attempt_at <= p_now
        order by d.next_attempt_at
        limit greatest(w.room, 0)
        for update skip locked
      ) as r
    ) as u
    limit greatest(w.room, 0)
  ) as f;
end;
$$;

comment on function webhookpub.due_deliveries (text[], integer[], timestamptz, text[]) is
  'Locks due deliveries of these webhooks, at most p_limits of each, within max_in_flight and its circuit; returns their ids, and the webhooks that may have more.';
--! EndIncluded 3_deliver/due_deliveries.sql
