-- Says how many deliveries of a webhook may be born leased: a few, if it is well and has nothing
-- else waiting. Whoever has a pace is in no hurry.
--
-- Called by  webhookpub.leases_at_birth, per row: no pinned path, so that it is inlined.
-- Returns    one row: how many, and until when they would be leased; or none.

create or replace function webhookpub.room_at_birth (
  p_webhook_id text,
  p_most integer,
  p_now timestamptz
)
  returns table (
    room integer,
    leased_until timestamptz
  )
  language sql
  stable
as $$
  select
    least(p_most - n.under_way, n.room),
    p_now + interval '15 seconds' + coalesce(w.request_timeout, s.request_timeout)
  from webhookpub.webhooks as w
  cross join lateral webhookpub.standing(w, p_now) as n
  cross join webhookpub.settings as s
  where w.id = p_webhook_id and w.unanswered = 0 and w.max_per_second is null
    -- What is due goes first.
    and not exists (
      select
      from webhookpub.queue as q
      where q.webhook_id = w.id and not q.leased and q.due_at <= p_now
    )
  offset 0;
$$;

comment on function webhookpub.room_at_birth (text, integer, timestamptz) is
  'How many deliveries of a webhook may be born leased, at most p_most, and until when; no row: none.';
