-- Makes the id of a replay or a test: time first, so that ids are in the order of creation.
-- First deliveries have theirs from webhookpub.first_delivery_prefix.
--
-- Called by  steering functions, for each.
-- Returns    whd_, 12 hex digits of Unix milliseconds, 20 random ones.

create or replace function webhookpub.delivery_id (
  p_now timestamptz
)
  returns text
  language sql
  volatile
  parallel safe
return 'whd_'
  || encode(substr(int8send((date_part('epoch', p_now) * 1000)::bigint), 3), 'hex')
  || left(webhookpub.random_hex(), 20);

comment on function webhookpub.delivery_id (timestamptz) is
  'whd_ and 32 hex digits: the time in milliseconds, then random ones.';
