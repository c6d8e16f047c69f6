-- Takes deliveries out of the queue, without another attempt: what the queue knows of each
-- becomes the end of its history, and whose turn it is next becomes due.
--
-- Called by  webhookpub.delete_webhook, webhookpub.cancel_deleted, webhookpub.park_lost,
--            webhookpub.skip, which have locked them.
-- Returns    how many.

create or replace function webhookpub.end_deliveries (
  p_delivery_ids text[],
  p_status text
)
  returns bigint
  language plpgsql
  volatile
as $$
declare
  v_ended record;
begin
  with taken as (
    delete from webhookpub.queue as q
    where q.delivery_id = any (p_delivery_ids)
    returning q.*
  ),
  ended as (
    update webhookpub.delivery_history as h
    set
      status = p_status,
      attempts = t.attempt,
      lost = t.lost,
      last_attempt_at = t.last_attempt_at,
      last_status_code = t.last_status_code,
      last_error = t.last_error
    from (
      select t.*, (
        select h.ctid from webhookpub.delivery_history as h where h.id = t.delivery_id
      ) as at
      from taken as t
    ) as t
    -- By where it is, which only whoever holds its row of the queue changes: no plan can
    -- come to read the whole history.
    where h.ctid = t.at
    returning t.webhook_id, t.ordering_key, t.ordering_key is not null and t.turn_at is null as is_turn
  )
  select
    count(*) as count,
    array_agg(e.webhook_id) filter (where e.is_turn) as webhook_ids,
    array_agg(e.ordering_key) filter (where e.is_turn) as ordering_keys
  into v_ended
  from ended as e;
  if v_ended.webhook_ids is not null then
    perform webhookpub.pass_turns(
      webhookpub.next_turns(v_ended.webhook_ids, v_ended.ordering_keys), clock_timestamp()
    );
  end if;
  return v_ended.count;
end;
$$;

comment on function webhookpub.end_deliveries (text[], text) is
  'Ends these deliveries, which are pending and locked, as failed or cancelled; returns how many.';
