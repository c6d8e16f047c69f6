-- Disables webhooks that have only failed for too long.
--
-- Called by  webhookpub.maintain.
-- Locks      the webhooks, skipping those that somebody else holds, be it to record a
--            success: the next round looks again.
-- Returns    how many.
--
-- What failing_since says is approximate (webhookpub.record_attempts); attempts are not, so
-- they decide.

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
      and not exists (
        select
        from webhookpub.attempts as a
        where a.webhook_id = w.id
          and a.started_at > p_now - s.auto_disable_after
          and a.status_code between 200 and 299
        offset 0
      )
    for no key update of w skip locked
  ), 'failing');
$$;

comment on function webhookpub.disable_failing (timestamptz) is
  'Disables webhooks without a success, but enough failures, for settings.auto_disable_after.';
