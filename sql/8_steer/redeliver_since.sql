-- Sends a webhook again what was published for it within a time.
--
-- Called by  psql, applications.
-- Locks      nothing that anybody waits for, but for who replays the same to the same
--            webhook at this moment.
-- Returns    how many deliveries were made, or would have been.
-- Raises     WH020, WH021, WH022.
--
-- Nothing is matched again: what was delivered to the webhook is the decision. An event
-- counts by its last delivery, first or replay; one that has a pending delivery is on its
-- way already.

create or replace function webhookpub.redeliver_since (
  p_webhook_id text,
  p_since timestamptz,
  p_until timestamptz default now(),
  p_only_failed boolean default true,
  p_dry_run boolean default false
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_hashjoin = on
  set enable_mergejoin = on
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_replay_id constant text := 'rpl_' || webhookpub.random_hex();
  v_webhook constant webhookpub.webhooks := webhookpub.find_webhook(p_webhook_id, true);
  -- No delivery is older than its event, and ids are in the order of time.
  v_first_id constant text := left(
    webhookpub.delivery_id(least(greatest(p_since, 'epoch'), v_now)), 16
  );
  v_count bigint;
begin
  if (p_since < p_until) is not true then
    raise exception using
      errcode = 'WH022',
      message = format(
        'p_since %s must be before p_until %s',
        coalesce(p_since::text, 'null'), coalesce(p_until::text, 'null')
      ),
      hint = 'Events count by when they were published: from p_since on, before p_until.';
  end if;
  if p_only_failed is null or p_dry_run is null then
    raise exception using
      errcode = 'WH022',
      message = 'p_only_failed and p_dry_run must be true or false, not null',
      hint = 'Leave them out to replay what failed.';
  end if;

  with last as (
    select distinct on (d.event_id)
      d.event_id, d.event_type, d.event_created_at, d.message_id, d.status
    from webhookpub.delivery_history as d
    where d.webhook_id = v_webhook.id
      and d.id >= v_first_id
      and d.event_created_at >= p_since
      and d.event_created_at < p_until
      and starts_with(d.replay_id, 'test_') is not true
    order by d.event_id, d.status = 'pending' desc, d.id desc
  ),
  replayable as materialized (
    select l.*, case when not p_dry_run then webhookpub.delivery_id(v_now) end as delivery_id
    from last as l
    where (l.status = 'failed' or (l.status = 'delivered' and not p_only_failed))
      and exists (
        select
        from webhookpub.envelopes as n
        where n.event_id = l.event_id and n.created_at = l.event_created_at
          and n.created_at >= p_since and n.created_at < p_until
      )
  ),
  -- The queue first: there, one replay of an event is pending for a webhook.
  queued as (
    insert into webhookpub.queue as q (delivery_id, webhook_id, due_at, replay_of)
    select r.delivery_id, v_webhook.id, v_now, r.event_id
    from replayable as r
    where not p_dry_run
    order by r.event_created_at
    on conflict (replay_of, webhook_id) where replay_of is not null do nothing
    returning q.delivery_id
  ),
  created as (
    insert into webhookpub.delivery_history as h
      (id, webhook_id, event_id, event_type, event_created_at, message_id, replay_id,
       max_attempts, created_at)
    select
      r.delivery_id, v_webhook.id, r.event_id, r.event_type, r.event_created_at, r.message_id,
      v_replay_id, cardinality(v_webhook.retry_schedule) + 1, v_now
    from replayable as r
    -- "is true": looked up in a hash, never joined row by row, whatever stale statistics say.
    where (r.delivery_id in (select q.delivery_id from queued as q)) is true
    returning h.id
  )
  select case when p_dry_run
    then (select count(*) from replayable)
    else (select count(*) from created)
  end
  into v_count;

  if v_count > 0 and not p_dry_run then
    perform webhookpub.add_deliver_jobs(array[v_webhook.id]);
  end if;
  return v_count;
end;
$$;

comment on function webhookpub.redeliver_since (text, timestamptz, timestamptz, boolean, boolean) is
  'Sends a webhook again the events published from p_since to before p_until: those that failed, or all; a dry run only counts. Raises WH020, WH021, WH022.';
