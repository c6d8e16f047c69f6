-- Gives the seat of an awake fan-out back.
--
-- Called by  an awake fan-out, on the connection that entered.

create or replace function webhookpub.leave_fan_out ()
  returns void
  language sql
  volatile
as $$
  select pg_catalog.pg_advisory_unlock_all(),
    pg_catalog.set_config('idle_session_timeout', '0', false);
$$;

comment on function webhookpub.leave_fan_out () is
  'Gives back what webhookpub.enter_fan_out took.';
