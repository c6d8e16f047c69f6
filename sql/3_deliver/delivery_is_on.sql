-- Says whether anything may be sent: not while settings.deliver_enabled is false, nor in a
-- database whose own setting webhookpub.deliver_enabled is off.
--
-- Called by  webhookpub.lease_deliveries, webhookpub.leases_at_birth, webhookpub.wake,
--            webhookpub.add_deliver_jobs; webhookpub.diagnose_work, webhookpub.webhook_waits.
--
-- The second is for copies: alter database … set it before there is anything in it, and no worker
-- can be faster.

create or replace function webhookpub.delivery_is_on ()
  returns boolean
  language sql
  stable
as $$
  select s.deliver_enabled
    and coalesce(pg_catalog.current_setting('webhookpub.deliver_enabled', true), 'on')
      not in ('off', 'false', 'no', '0')
  from webhookpub.settings as s;
$$;

comment on function webhookpub.delivery_is_on () is
  'Whether anything may be sent from this database, by its settings.';
