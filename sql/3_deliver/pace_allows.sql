-- Says how many requests a webhook may begin now by its pace: those that have come up since the
-- last ones, evenly, and no more than a burst (the generic cell rate algorithm).
--
-- Called by  webhookpub.standing, webhookpub.spend_pace, per row: no pinned path, so that it is
--            inlined.
-- Returns    null for a webhook without a pace.

create or replace function webhookpub.pace_allows (
  p_max_per_second double precision,
  p_spent_until timestamptz,
  p_now timestamptz
)
  returns integer
  language sql
  immutable
  parallel safe
return case
  -- By a slower pace, or before the clock was set back: one goes, and sets it right.
  when extract(epoch from p_spent_until - p_now)::double precision
    > webhookpub.pace_burst(p_max_per_second) + 1 then 1
  else floor(
    p_max_per_second * (
      webhookpub.pace_burst(p_max_per_second)
      - coalesce(greatest(extract(epoch from p_spent_until - p_now)::double precision, 0), 0)
    )
    -- What is whole but for the last bit of a fraction is whole.
    + 0.000001
  )
end;

comment on function webhookpub.pace_allows (double precision, timestamptz, timestamptz) is
  'How many requests a webhook may begin now by its pace; null: any number.';
