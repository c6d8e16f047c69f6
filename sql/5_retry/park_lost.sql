-- Gives deliveries up that three workers in a row, or more, were lost with, the last time with
-- none of their like beside them (webhookpub.due_suspects).
--
-- Called by  webhookpub.wake.
-- Locks      those deliveries, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.park_lost (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
as $$
declare
  v_ids text[];
  v_webhook_ids text[];
  v_ordering_keys text[];
  v_held text[];
begin
  select array_agg(l.delivery_id), array_agg(l.webhook_id), array_agg(l.ordering_key)
  into v_ids, v_webhook_ids, v_ordering_keys
  from (
    select
      q.delivery_id, q.webhook_id, case when q.turn_at is null then q.ordering_key end as ordering_key
    from webhookpub.queue as q
    where q.leased and q.suspicion > 2 and (q.due_at <= p_now) is true
    for update skip locked
  ) as l;
  if v_ids is null then
    return 0;
  end if;
  select h.held_ids into v_held
  from webhookpub.hold_turns(v_ids, v_webhook_ids, v_ordering_keys) as h;
  if v_held is not null then
    v_ids := array(select i.id from unnest(v_ids) as i (id) where i.id <> all (v_held));
  end if;
  update webhookpub.queue as q
  set
    lost = q.lost + 1,
    last_status_code = null,
    last_error = format('parked: its worker was lost %s times', q.lost + 1)
  where q.delivery_id = any (v_ids);
  perform webhookpub.end_deliveries(v_ids, 'failed');
  perform webhookpub.publish_delivery_failed(v_ids);
  return cardinality(v_ids);
end;
$$;

comment on function webhookpub.park_lost (timestamptz) is
  'Fails the deliveries that at least three workers in a row were lost with, the last time alone, and publishes webhook.delivery_failed for each; returns how many.';
