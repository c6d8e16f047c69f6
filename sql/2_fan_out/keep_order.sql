-- Leaves out of a batch what would overtake: events with an ordering key, while an earlier one with
-- the same key is pending elsewhere, or somebody is just ending what they would wait for. They
-- stay pending, for the next batch.
--
-- Called by  webhookpub.next_events, webhookpub.next_heavy, webhookpub.fan_out_singly.
-- Locks      the last delivery in the queue of each key and ordered webhook, until the batch
--            commits: behind it, what is new can't be overlooked by whoever ends it.
-- Returns    the others, or null.
--
-- Those behind one whose fan-out fails are tried with it again, but within a minute.

create or replace function webhookpub.keep_order (
  p_events webhookpub.events[]
)
  returns webhookpub.events[]
  language plpgsql
  volatile
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_early record;
  v_held text[];
begin
  v_early := webhookpub.early_events(p_events, v_now);
  if exists (select from unnest(v_early.retries) as r (retry_at) where r.retry_at is not null) then
    -- They make room for others, and for so long that no fan-out is busy with them alone.
    update webhookpub.events as e
    set retry_at = greatest(
      v_now + interval '1 second', least(r.retry_at, v_now + interval '1 minute')
    )
    from unnest(v_early.ids, v_early.retries) as r (id, retry_at)
    where e.id = r.id and r.retry_at is not null and e.status = 'pending';
  end if;

  v_held := webhookpub.hold_tails(array(
    select e from unnest(p_events) as e where e.id = any (v_early.ids) is not true
  ));
  return (
    select array_agg(e)
    from unnest(p_events) as e
    where e.id = any (v_early.ids) is not true and e.id = any (v_held) is not true
  );
end;
$$;

comment on function webhookpub.keep_order (webhookpub.events[]) is
  'Those of these events that overtake none with the same ordering key; what they come behind is locked.';
