-- Decides whether this publisher has to NOTIFY.
--
-- Called by  public.webhook_publish_tx, while no fan-out is awake.
-- Locks      two advisory locks until the end of the transaction, and waits for neither: one that
--            all share who publish while no fan-out is awake (webhookpub.others_publish), and one
--            that the first of them has, who is about to NOTIFY.
-- Returns    false when settings.notify_enabled is, when the server's queue of notifications is
--            half full (at its end, commits would fail), and while another transaction is about
--            to, and has been for less than 50 ms. Whom that wakes looks again until all have
--            ended that share the lock; else the tick finds the event.
--
-- A commit with a NOTIFY in it waits for every other such commit of the server. One at a
-- time waits for none, even when no worker runs.

create or replace function webhookpub.notify_is_due ()
  returns boolean
  language plpgsql
  volatile
as $$
declare
  v_now constant bigint := extract(epoch from clock_timestamp()) * 1000;
  v_is_seen boolean;
begin
  perform from webhookpub.settings as s where s.notify_enabled;
  if not found then
    return false;
  end if;
  -- Not while a fan-out looks, at this instant. First, so that none looks between the two.
  v_is_seen := pg_try_advisory_xact_lock_shared(2003006832, 5);
  -- A sequence, because others see what is set before it is committed. The difference is
  -- below zero when the clock was set back.
  if pg_try_advisory_xact_lock(2003006832, 4)
    or not v_is_seen
    or v_now - (select n.last_value from webhookpub.notified_at as n) not between 0 and 50
  then
    -- Each call writes to the log; of a burst some milliseconds are told of by one.
    perform setval('webhookpub.notified_at', v_now)
    from webhookpub.notified_at as n
    where v_now - n.last_value not between 0 and 10;
    return pg_notification_queue_usage() < 0.5;
  end if;
  return false;
end;
$$;

comment on function webhookpub.notify_is_due () is
  'Whether a publisher must NOTIFY: not while another is about to, for up to 50 ms.';
