-- Gives a webhook a new signing secret. Until the grace ends, every request carries both
-- signatures, so that the receiver can change over at leisure.
--
-- Called by  applications, psql.
-- Locks      the webhook, so that rotations go one after the other.
-- Returns    the new secret, this once.
-- Raises     WH010, WH020, WH021.

create or replace function webhookpub.rotate_secret (
  p_webhook_id text,
  p_grace interval default '24 hours'
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz;
  v_secret text;
begin
  if p_grace between '0' and '30 days' is not true then
    raise exception using
      errcode = 'WH010',
      message = format('grace %s must be 0 to 30 days', coalesce(p_grace::text, 'null')),
      hint = 'With 0 the old secret ends at once.';
  end if;
  perform webhookpub.lock_webhook(p_webhook_id);
  v_now := clock_timestamp();
  -- At most two live secrets: the one before the last ends here, whatever its grace.
  delete from webhookpub.secrets as s
  where s.webhook_id = p_webhook_id and (s.expires_at is not null or p_grace = '0');
  update webhookpub.secrets as s
  set expires_at = v_now + p_grace
  where s.webhook_id = p_webhook_id;
  -- Made within the statement, so that it is nobody's parameter, which might be logged.
  insert into webhookpub.secrets as k (webhook_id, secret)
  values (p_webhook_id, webhookpub.new_secret())
  returning k.secret into v_secret;
  return v_secret;
end;
$$;

comment on function webhookpub.rotate_secret (text, interval) is
  'Gives a webhook a new secret and returns it; the old one goes on signing beside it for p_grace. Raises WH010, WH020, WH021.';
