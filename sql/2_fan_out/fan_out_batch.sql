-- Turns pending events into deliveries, for a worker that goes on to deliver them itself.
--
-- Called by  a worker, on a connection for each of the two lanes; webhookpub.fan_out.
-- Locks      the events it takes, skipping those that another fan-out has.
-- Returns    how many events were fanned out, how many deliveries that made, the webhooks for
--            which some wait, each with its user, and the deliveries that are leased to whoever
--            called, for their first attempt: it can send p_room at once, and if that is little,
--            what; and, of the ordinary lane, whether more is pending than went into the batch,
--            whether the heavy one has something to do, and whether to look again soon, for
--            somebody publishes without a NOTIFY (webhookpub.others_publish), or an event is left
--            out that may go in a moment.
--
-- It adds no jobs: those take longer than all the rest, and whoever called is quicker. What
-- it does not come to gets a job by the next look at what is due (webhookpub.wake).
--
-- A batch is all or nothing. If it fails, its events go one by one; a culprit keeps its
-- error and waits, longer each time, while the others go on. It is never given up. If its time is
-- up (statement_timeout), nothing more is begun, and its events go one by one in the calls that
-- follow. Whoever cancels it before ends the call.

create or replace function webhookpub.fan_out_batch (
  p_limit integer default 500,
  p_room integer default 0,
  p_heavy boolean default false,
  out event_count integer,
  out delivery_count integer,
  out webhook_ids text[],
  out user_ids text[],
  out leased_ids text[],
  out leased_webhook_ids text[],
  out leased_user_ids text[],
  out leased_at timestamptz,
  out requests json,
  out more boolean,
  out heavy_waits boolean,
  out look_again boolean
)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_events webhookpub.events[];
  v_done record;
begin
  event_count := 0;
  delivery_count := 0;
  more := false;
  look_again := not p_heavy and webhookpub.others_publish();
  begin
    -- Locked and written in one subtransaction: two would leave both of them in the row,
    -- and the index could not forget such a row until the next vacuum.
    if p_heavy then
      v_events := webhookpub.next_heavy();
    else
      select n.events, n.more, look_again or n.left_out into v_events, more, look_again
      from webhookpub.next_events(p_limit) as n;
    end if;
    if v_events is not null then
      v_done := webhookpub.fan_out_events(v_events, p_room);
      webhook_ids := v_done.webhook_ids;
      leased_ids := v_done.leased_ids;
      leased_webhook_ids := v_done.leased_webhook_ids;
      leased_at := v_done.leased_at;
      event_count := cardinality(v_events);
      delivery_count := v_done.delivery_count;
    end if;
  exception
    when query_canceled then
      if v_events is null or not webhookpub.time_is_up() then
        raise;
      end if;
      perform webhookpub.fail_events(
        array(select e.id from unnest(v_events) as e), format('%s (%s)', sqlerrm, sqlstate)
      );
    when others then
      if v_events is null then
        raise; -- No event's fault: none was taken.
      end if;
      v_done := webhookpub.fan_out_singly(v_events, format('%s (%s)', sqlerrm, sqlstate));
      webhook_ids := v_done.webhook_ids;
      more := true; -- What it has not come to.
      event_count := v_done.event_count;
      delivery_count := v_done.delivery_count;
  end;
  if not p_heavy then
    heavy_waits := webhookpub.heavy_waits();
  elsif v_events is not null then
    -- Here, for an error takes back what was set before it.
    perform set_config('webhookpub.heavy_turn', v_events[1].pending_user_id, false);
  end if;
  user_ids := webhookpub.users_of(webhook_ids);
  leased_user_ids := webhookpub.users_of(leased_webhook_ids);
  requests := webhookpub.requests_at_birth(leased_ids, v_events);
end;
$$;

comment on function webhookpub.fan_out_batch (integer, integer, boolean) is
  'Turns up to p_limit pending events, or one of the heavy lane, into deliveries, without jobs, and leases up to p_room of them; returns how many of each, for which webhooks of which users, and what is leased.';
