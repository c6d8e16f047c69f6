-- Tells a fan-out whether somebody is publishing who leaves the NOTIFY to another, and has not
-- committed yet: such an event may come after the look that the NOTIFY brings.
--
-- Called by  webhookpub.fan_out_batch, before it looks: what has ended by then is seen.
-- Locks      such publishers hold this advisory lock in share mode until they end
--            (webhookpub.notify_is_due). Whoever gets it exclusively, if only for this
--            instant, knows that there is none; nobody ever waits.

create or replace function webhookpub.others_publish ()
  returns boolean
  language sql
  volatile
return case
  when pg_try_advisory_lock(2003006832, 5) then not pg_advisory_unlock(2003006832, 5)
  else true
end;

comment on function webhookpub.others_publish () is
  'Whether somebody is publishing who sends no NOTIFY, and has not committed.';
