-- Disables webhooks that have only failed for too long.
--
-- Called by  webhookpub.maintain.
-- Locks      the webhooks, in the order of their ids: a success that is being recorded is
--            waited for, and counts.
-- Returns    how many.

create or replace function webhookpub.disable_failing (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language sql
  volatile
as $$
  select webhookpub.disable_webhooks(array(
    select w.id
    from webhookpub.webhooks as w
    cross join webhookpub.settings as s
    where w.enabled
      and w.failing_since <= p_now - s.auto_disable_after
      and w.failures >= s.auto_disable_min_failures
    order by w.id
    for no key update of w
  ), 'failing');
$$;

comment on function webhookpub.disable_failing (timestamptz) is
  'Disables webhooks without a success, but enough failures, for settings.auto_disable_after.';
