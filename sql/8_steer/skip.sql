-- Cancels a pending delivery, so that the next with its ordering key may go.
--
-- Called by  psql, applications.
-- Locks      the delivery, waiting for what is being recorded or leased.
-- Raises     WH020, WH022.
--
-- If its request is under way, it still arrives, and its attempt is kept; it changes nothing more.

create or replace function webhookpub.skip (
  p_delivery_id text
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook_id text;
  v_status text;
begin
  select q.webhook_id into v_webhook_id
  from webhookpub.queue as q
  where q.delivery_id = p_delivery_id
  for update;
  if not found then
    select h.status into v_status
    from webhookpub.delivery_history as h
    where h.id = p_delivery_id;
    if not found then
      raise exception using
        errcode = 'WH020',
        message = format(
          'no such delivery: %s', coalesce(quote_literal(left(p_delivery_id, 100)), 'null')
        ),
        hint = 'List them with: select id, webhook_id, status from webhookpub.deliveries;';
    end if;
    raise exception using
      errcode = 'WH022',
      message = format('delivery %L has ended: it is %s', p_delivery_id, v_status),
      hint = 'Only a pending delivery can be skipped.';
  end if;
  perform webhookpub.end_deliveries(array[p_delivery_id], 'cancelled');
  perform webhookpub.add_deliver_jobs(array[v_webhook_id]);
end;
$$;

comment on function webhookpub.skip (text) is
  'Cancels a pending delivery; if it holds up others with its ordering key, the next goes. Raises WH020, WH022.';
