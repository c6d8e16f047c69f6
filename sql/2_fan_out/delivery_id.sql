-- Makes the id of a delivery: time first, so that ids are in the order of creation.
--
-- Called by  webhookpub.fan_out_events, once a batch; steering functions, for each.
-- Returns    whd_, 12 hex digits of Unix milliseconds, 20 random ones.
--
-- The primary key is then the newest-first order that people ask for, and its inserts go
-- to the index's right edge, however large the table is.

create or replace function webhookpub.delivery_id (
  p_now timestamptz
)
  returns text
  language sql
  volatile
  parallel safe
return 'whd_'
  || lpad(to_hex((extract(epoch from p_now) * 1000)::bigint), 12, '0')
  || left(webhookpub.random_hex(), 20);

comment on function webhookpub.delivery_id (timestamptz) is
  'whd_ and 32 hex digits: the time in milliseconds, then random ones.';
