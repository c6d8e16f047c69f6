-- Picks the pending events that a batch takes, and locks them. While more wait than a batch has
-- room for, users take turns: each gets one in before anybody gets a second. What is heavy goes
-- into its own lane, where it holds up nobody: it is not met here again. None overtakes an earlier
-- one with the same ordering key.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has.
-- Returns    them, or null; whether more are pending that did not fit; and whether some were left out
--            that may go in a moment.
--
-- Where most of them would overtake, others are looked for, with other keys: however many wait
-- behind one, they are in nobody's way.

create or replace function webhookpub.next_events (
  p_limit integer,
  out events webhookpub.events[],
  out more boolean,
  out left_out boolean
)
  language plpgsql
  volatile
  -- By index, and few, whatever stale statistics say.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_at tid[];
  v_fit tid[];
  v_found webhookpub.events[];
  v_kept webhookpub.events[];
  v_left integer;
  v_keys text[] := '{}';
begin
  more := false;
  left_out := false;
  for i in 1 .. 4 loop
    v_at := webhookpub.oldest_events(p_limit, v_keys, v_now);
    exit when v_at is null;
    v_fit := webhookpub.fit_batch(v_at, p_limit);
    more := more or cardinality(v_at) >= p_limit
      or coalesce(cardinality(v_fit), 0) < cardinality(v_at);
    select array_agg(l.event) into v_found
    from unnest(v_fit) as a (at)
    -- One by one; "offset 0" keeps the planner from joining.
    cross join lateral (
      select e as event from webhookpub.events as e where e.ctid = a.at offset 0
    ) as l;
    exit when v_found is null;
    v_kept := v_found;
    if exists (select from unnest(v_found) as e where e.ordering_key is not null) then
      v_kept := webhookpub.keep_order(v_found);
    end if;
    -- What was kept before is found again: it is locked by this very transaction.
    events := case when events is null then v_kept else array(
      select distinct on (e.id) e from unnest(events || v_kept) as e
    ) end;
    v_left := cardinality(v_found) - coalesce(cardinality(v_kept), 0);
    left_out := left_out or v_left > 0;
    exit when v_left * 2 <= cardinality(v_found);
    v_keys := v_keys || array(
      select distinct e.ordering_key
      from unnest(v_found) as e
      where e.ordering_key is not null
        and e.id <> all (array(select k.id from unnest(v_kept) as k))
    );
  end loop;
  -- While none of them may go, to ask at once again would be in vain.
  more := more and (events is not null or not left_out);
end;
$$;

comment on function webhookpub.next_events (integer) is
  'Locks and returns up to p_limit pending events, of all users in turn, and not more than one statement can do in a moment.';
