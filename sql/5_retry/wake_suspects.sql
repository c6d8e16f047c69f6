-- Wakes the webhooks whose suspects may be tried now.
--
-- Called by  webhookpub.follow_answers, when a suspect has been tried.
-- Locks      the webhooks' job rows (webhookpub.add_deliver_jobs). An application may have added
--            one in a transaction that it leaves open: it is not waited for, the tick will.

create or replace function webhookpub.wake_suspects (
  p_now timestamptz
)
  returns void
  language plpgsql
  volatile
  set lock_timeout = '50ms'
as $$
begin
  perform webhookpub.add_deliver_jobs(s.webhook_ids)
  from webhookpub.due_suspects(null, p_now) as s
  where s.webhook_ids is not null;
exception when lock_not_available then
  null;
end;
$$;

comment on function webhookpub.wake_suspects (timestamptz) is
  'Adds jobs for the webhooks whose deliveries may be tried now though two workers were lost with them.';
