-- Writes down what was leased of webhooks that have a pace.
--
-- Called by  webhookpub.lease_deliveries, which has locked the webhooks' leases.
-- Locks      their paces.
-- Returns    one row for each that may begin nothing more now: in how many milliseconds it may
--            again, some at a time where it is fast.

create or replace function webhookpub.spend_pace (
  p_webhook_ids text[],
  p_leased_webhook_ids text[],
  p_now timestamptz
)
  returns table (
    webhook_id text,
    wait_ms integer
  )
  language sql
  volatile
as $$
  with paced as materialized (
    select
      w.id, w.rate,
      case
        when l.count > 0 then least(
          greatest(c.spent_until, p_now) + interval '1 second' * (l.count / w.rate), w.fullest
        )
        -- By a slower pace, which it had before.
        when c.spent_until > w.fullest then w.fullest
        else c.spent_until
      end as spent_until,
      l.count > 0 or c.spent_until > w.fullest as is_new
    from unnest(p_webhook_ids) as p (id)
    cross join lateral (
      select
        w.id, r.rate, p_now + interval '1 second' * webhookpub.pace_burst(r.rate) as fullest
      from webhookpub.webhooks as w
      cross join lateral (select w.max_per_second::double precision as rate) as r
      where w.id = p.id and w.max_per_second is not null
      offset 0
    ) as w
    cross join lateral (
      select count(*) as count from unnest(p_leased_webhook_ids) as l (id) where l.id = w.id
    ) as l
    left join lateral (
      select c.spent_until from webhookpub.paces as c where c.webhook_id = w.id offset 0
    ) as c on true
  ),
  spent as (
    insert into webhookpub.paces as c (webhook_id, spent_until)
    select p.id, p.spent_until from paced as p where p.is_new
    on conflict (webhook_id) do update set spent_until = excluded.spent_until
  )
  select p.id, ceil(1000 * (
    extract(epoch from p.spent_until - p_now)::double precision
    - webhookpub.pace_burst(p.rate)
    -- A lease for each request would cost more than ten for each second.
    + greatest(1, floor(p.rate / 10)) / p.rate
  ))::integer
  from paced as p
  where webhookpub.pace_allows(p.rate, p.spent_until, p_now) < 1;
$$;

comment on function webhookpub.spend_pace (text[], text[], timestamptz) is
  'Counts what was leased of each of these webhooks towards its pace; returns those that have to wait, and for how long.';
