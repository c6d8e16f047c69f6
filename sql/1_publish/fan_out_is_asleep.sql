-- Tells a publisher whether somebody has to be woken.
--
-- Called by  public.webhook_publish_tx, webhookpub.wake.
-- Locks      an awake fan-out holds this advisory lock in share mode. Whoever gets it
--            exclusively, if only for this instant, knows that there is none; nobody
--            ever waits. A worker that dies lets go of it with its connection.

create or replace function webhookpub.fan_out_is_asleep ()
  returns boolean
  language sql
  volatile
return case
  when pg_try_advisory_lock(2003006832, 1) then pg_advisory_unlock(2003006832, 1)
  else false
end;

comment on function webhookpub.fan_out_is_asleep () is
  'Whether no fan-out is awake, so that a new event must NOTIFY.';
