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
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  v_ids text[];
begin
  select array_agg(l.id) into v_ids
  from (
    select d.id
    from webhookpub.deliveries as d
    where d.status = 'pending' and d.leased and d.lost_in_a_row > 1 and d.trial_size = 1
      and d.next_attempt_at <= p_now
    for update skip locked
  ) as l;
  if v_ids is null then
    return 0;
  end if;
  update webhookpub.deliveries as d
  set
    status = 'failed',
    leased = false,
    lost = d.lost + 1,
    lost_in_a_row = d.lost_in_a_row + 1,
    next_attempt_at = null,
    last_status_code = null,
    last_error = format('parked: its worker was lost %s times in a row', d.lost_in_a_row + 1)
  where d.id = any (v_ids);
  perform webhookpub.publish_delivery_failed(v_ids);
  return cardinality(v_ids);
end;
$$;

comment on function webhookpub.park_lost (timestamptz) is
  'Fails the deliveries that at least three workers in a row were lost with, the last time alone, and publishes webhook.delivery_failed for each; returns how many.';
