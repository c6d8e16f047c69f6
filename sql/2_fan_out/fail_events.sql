-- Keeps the error of events that could not be fanned out.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has meanwhile.
--
-- One that failed by itself waits, longer each time. Of several nobody knows whose fault it
-- was: they are tried again at once, each by itself, in the heavy lane.

create or replace function webhookpub.fail_events (
  p_ids text[],
  p_error text
)
  returns void
  language sql
  volatile
as $$
  update webhookpub.events as e
  set
    attempts = e.attempts + 1,
    pending_user_id = chr(1) || e.user_id,
    last_error = p_error,
    retry_at = case
      when cardinality(p_ids) = 1 then clock_timestamp()
        + least(interval '1 second' * 2 ^ least(e.attempts, 20), interval '1 hour')
    end
  from (
    select e.id
    from webhookpub.events as e
    where e.id = any (p_ids) and e.status = 'pending'
    for update skip locked
  ) as f
  where e.id = f.id;
$$;

comment on function webhookpub.fail_events (text[], text) is
  'Keeps the error of pending events; one alone then waits, for a second and twice as long each time, up to an hour.';
