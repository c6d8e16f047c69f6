-- Says for how many more requests a webhook has room now, if for none, why, and how many are under
-- way.
--
-- Called by  webhookpub.due_deliveries, webhookpub.room_at_birth, webhookpub.wake_deliveries,
--            webhookpub.due_suspects, webhookpub.webhook_waits, per row: no pinned path, so that
--            it is inlined.
-- Returns    one row.

create or replace function webhookpub.standing (
  p_webhook webhookpub.webhooks,
  p_now timestamptz
)
  returns table (
    room integer,
    waits_for text,
    under_way integer
  )
  language sql
  stable
as $$
  select
    least(
      webhookpub.requests_allowed(p_webhook, f.has_secret, f.paced, p_now) - f.under_way, f.paced
    ),
    coalesce(
      webhookpub.webhook_waits_for(p_webhook, f.has_secret, f.paced, p_now),
      case
        when webhookpub.requests_allowed(p_webhook, f.has_secret, f.paced, p_now) <= f.under_way
          then 'room'
      end
    ),
    f.under_way
  from (
    select
      exists (
        select
        from webhookpub.secrets as k
        where k.webhook_id = p_webhook.id and k.expires_at is null
      ) as has_secret,
      case when p_webhook.max_per_second is not null then (
        select webhookpub.pace_allows(
          p_webhook.max_per_second::double precision, max(c.spent_until), p_now
        )
        from webhookpub.paces as c
        where c.webhook_id = p_webhook.id
      ) end as paced,
      (
        select count(*)
        from (
          select
          from webhookpub.queue as q
          where q.webhook_id = p_webhook.id and q.leased and q.due_at > p_now
          order by q.due_at
          limit p_webhook.max_in_flight
        ) as q
      )::integer as under_way
    offset 0
  ) as f;
$$;

comment on function webhookpub.standing (webhookpub.webhooks, timestamptz) is
  'For how many more requests a webhook has room now, what it waits for if for none, and how many are under way.';
