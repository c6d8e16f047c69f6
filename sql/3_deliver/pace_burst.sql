-- Says how long a webhook with a pace may save up what it did not use: a quarter of a second, or
-- as long as one request takes it.
--
-- Called by  webhookpub.pace_allows, webhookpub.spend_pace, per row: no pinned path, so that it is
--            inlined.
-- Returns    seconds.

create or replace function webhookpub.pace_burst (
  p_max_per_second double precision
)
  returns double precision
  language sql
  immutable
  parallel safe
return greatest(0.25, 1 / p_max_per_second);

comment on function webhookpub.pace_burst (double precision) is
  'For how many seconds a webhook may save up its pace.';
