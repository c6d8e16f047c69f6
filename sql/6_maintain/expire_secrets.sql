-- Erases the secrets whose grace after a rotation has ended.
--
-- Called by  webhookpub.maintain.
-- Locks      those secrets, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.expire_secrets (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language plpgsql
  volatile
as $$
declare
  v_count bigint;
begin
  delete from webhookpub.secrets as s
  where s.id = any (array(
    select x.id from webhookpub.secrets as x where x.expires_at <= p_now for update skip locked
  ));
  get diagnostics v_count = row_count;
  return v_count;
end;
$$;

comment on function webhookpub.expire_secrets (timestamptz) is
  'Erases the secrets whose grace has ended; returns how many.';
