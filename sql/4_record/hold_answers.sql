-- Locks the webhooks that have to learn of an answer in the transaction that records it: one
-- that answered 410 is disabled, one whose receiver asks for a pause has one, and a probe
-- that failed keeps its circuit open. Lost, it would send the next request at once.
--
-- Called by  webhookpub.record_attempts.
-- Locks      those webhooks, skipping what somebody else holds.
-- Returns    the deliveries whose webhooks somebody holds: their answers have to wait.
--
-- None waits longer than its lease lasts, but for a 410, which is the last answer: it would go
-- out again, and be taken for one whose worker was lost.

create or replace function webhookpub.hold_answers (
  p_delivery_ids text[],
  p_status_codes integer[],
  p_retry_afters text[],
  p_now timestamptz
)
  returns text[]
  language sql
  volatile
as $$
  with told as materialized (
    select q.delivery_id, w.id as webhook_id
    from unnest(p_delivery_ids, p_status_codes, p_retry_afters)
      as r (delivery_id, status_code, retry_after)
    -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
    cross join lateral (
      select q.delivery_id, q.webhook_id
      from webhookpub.queue as q
      where q.delivery_id = r.delivery_id
        and (
          r.status_code = 410
          or (
            (r.status_code is null or (r.status_code in (429, 503) and r.retry_after <> ''))
            and q.leased
            and q.due_at > p_now + interval '5 seconds'
          )
        )
      offset 0
    ) as q
    cross join lateral (
      select w.id
      from webhookpub.webhooks as w
      where w.id = q.webhook_id
        and w.enabled
        and (r.status_code is not null or w.circuit_retry_at <= p_now)
      offset 0
    ) as w
  ),
  locked as materialized (
    select w.id
    from webhookpub.webhooks as w
    where w.id = any (array(select t.webhook_id from told as t))
    for no key update of w skip locked
  )
  select coalesce(array_agg(t.delivery_id) filter (where l.id is null), '{}')
  from told as t
  left join locked as l on l.id = t.webhook_id;
$$;

comment on function webhookpub.hold_answers (text[], integer[], text[], timestamptz) is
  'Locks the webhooks that have to learn of these answers; returns the deliveries of those that somebody else holds.';
