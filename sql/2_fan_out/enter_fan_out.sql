-- Lets a worker become an awake fan-out, if there is room for one more.
--
-- Called by  a worker that heard of events, on a connection of its own.
-- Locks      one of two seats, so that a stopped process can hold up only one of them,
--            and the shared lock by which publishers know that somebody is awake. Both
--            are held by the session until webhookpub.leave_fan_out, or until its client has
--            asked nothing for 10 s: one that is frozen, or lost its host, must not keep
--            publishers from waking others.
-- Returns    false when both seats are taken: then there is nothing to do.

create or replace function webhookpub.enter_fan_out ()
  returns boolean
  language plpgsql
  volatile
as $$
begin
  if pg_catalog.pg_try_advisory_lock(2003006832, 2)
    or pg_catalog.pg_try_advisory_lock(2003006832, 3)
  then
    perform pg_catalog.set_config('idle_session_timeout', '10s', false);
    perform pg_catalog.pg_advisory_lock_shared(2003006832, 1);
    return true;
  end if;
  return false;
end;
$$;

comment on function webhookpub.enter_fan_out () is
  'Takes a seat as an awake fan-out, for this session; false when all seats are taken.';
