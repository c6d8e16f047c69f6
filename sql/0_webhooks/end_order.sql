-- Makes due what waits for its turn, for a webhook that is no longer ordered.
--
-- Called by  webhookpub.update_webhook.
-- Locks      what goes by an ordering key, waiting for what is being fanned out, leased or
--            recorded.
--
-- The first statement waits for fan-outs that put something behind these, the second one sees it.
-- Fan-outs that come later find all of it locked, and leave their events pending until this ends.

create or replace function webhookpub.end_order (
  p_webhook_id text
)
  returns void
  language plpgsql
  volatile
as $$
begin
  perform
  from webhookpub.queue as q
  where q.webhook_id = p_webhook_id and q.ordering_key is not null
  order by q.turn_at is not null, q.delivery_id
  for update;
  update webhookpub.queue as q
  set
    ordering_key = null,
    turn_at = null,
    due_at = case when q.turn_at is null then q.due_at else clock_timestamp() end
  where q.webhook_id = p_webhook_id and q.ordering_key is not null;
end;
$$;

comment on function webhookpub.end_order (text) is
  'Makes due what waits for its turn in a webhook, whatever the order.';
