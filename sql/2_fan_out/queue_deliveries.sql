-- Puts the first deliveries of a batch into the queue. Some are born leased
-- (webhookpub.leases_at_birth). What has to wait for its turn is never due.
--
-- Called by  webhookpub.fan_out_events, which has made their history, in the order of their ids:
--            so they go into the index one after the other.
-- Returns    what is leased, and the webhooks that have something waiting.

create or replace function webhookpub.queue_deliveries (
  p_delivery_ids text[],
  p_webhook_ids text[],
  p_ordering_keys text[],
  p_turns timestamptz[],
  p_room integer,
  p_now timestamptz,
  out leased_ids text[],
  out leased_webhook_ids text[],
  out webhook_ids text[]
)
  language plpgsql
  volatile
as $$
declare
  v_leases constant timestamptz[] :=
    webhookpub.leases_at_birth(p_webhook_ids, p_turns, p_room, p_now);
begin
  with queued as (
    insert into webhookpub.queue
      (delivery_id, webhook_id, ordering_key, turn_at, due_at, leased, attempt, last_attempt_at)
    select
      p.id, p.webhook_id, p.ordering_key, p.turn_at,
      coalesce(p.leased_until, case when p.turn_at is null then p_now else 'infinity' end),
      p.leased_until is not null,
      (p.leased_until is not null)::integer,
      case when p.leased_until is not null then p_now end
    from unnest(p_delivery_ids, p_webhook_ids, p_ordering_keys, p_turns, v_leases)
      as p (id, webhook_id, ordering_key, turn_at, leased_until)
  )
  select
    array_agg(p.id) filter (where p.leased_until is not null),
    array_agg(p.webhook_id) filter (where p.leased_until is not null),
    array_agg(distinct p.webhook_id) filter (where p.leased_until is null and p.turn_at is null)
  into leased_ids, leased_webhook_ids, webhook_ids
  from unnest(p_delivery_ids, p_webhook_ids, p_turns, v_leases)
    as p (id, webhook_id, turn_at, leased_until);
end;
$$;

comment on function webhookpub.queue_deliveries
  (text[], text[], text[], timestamptz[], integer, timestamptz) is
  'Puts new deliveries into the queue, up to p_room of them leased; returns those, and the webhooks that have something waiting.';
