-- Locks the webhooks that answered 410: they are to be disabled in the same transaction.
--
-- Called by  webhookpub.record_attempts.
-- Locks      those webhooks, skipping what somebody else holds.
-- Returns    the deliveries whose webhooks somebody holds: their answers have to wait.

create or replace function webhookpub.hold_gone (
  p_delivery_ids text[],
  p_status_codes integer[]
)
  returns text[]
  language sql
  volatile
as $$
  with gone as materialized (
    select h.id, w.id as webhook_id
    from unnest(p_delivery_ids, p_status_codes) as r (delivery_id, status_code)
    cross join lateral (
      select h.id, h.webhook_id
      from webhookpub.delivery_history as h
      where h.id = r.delivery_id and h.status = 'pending' and r.status_code = 410
      offset 0
    ) as h
    join webhookpub.webhooks as w on w.id = h.webhook_id
    where w.enabled
  ),
  locked as materialized (
    select w.id
    from webhookpub.webhooks as w
    where w.id = any (array(select g.webhook_id from gone as g))
    for no key update of w skip locked
  )
  select coalesce(array_agg(g.id) filter (where l.id is null), '{}')
  from gone as g
  left join locked as l on l.id = g.webhook_id;
$$;

comment on function webhookpub.hold_gone (text[], integer[]) is
  'Locks the webhooks that answered 410; returns the deliveries of those that somebody else holds.';
