-- Takes back leases of which nothing was sent. No attempt is burned: what the receiver does not
-- know of does not count.
--
-- Called by  a worker that can't send them, or has to end.
-- Locks      the deliveries, skipping those that somebody else holds: their leases run out.
--
-- With an error, they wait for a minute and keep it, for somebody has to see to it; without, they
-- are due at once.

create or replace function webhookpub.release_deliveries (
  p_delivery_ids text[],
  p_attempts integer[],
  p_errors text[] default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_held tid[];
  v_errors text[];
begin
  select array_agg(q.at), array_agg(p.error) into v_held, v_errors
  from unnest(p_delivery_ids, p_attempts, p_errors) as p (delivery_id, attempt, error)
  cross join lateral (
    select q.ctid as at
    from webhookpub.queue as q
    where q.delivery_id = p.delivery_id and q.leased and q.attempt = p.attempt
    for update skip locked
    offset 0
  ) as q;
  update webhookpub.queue as q
  set
    leased = false,
    lost = q.lost + 1,
    suspicion = 0,
    due_at = v_now + case when h.error is null then interval '0' else interval '1 minute' end,
    last_error = coalesce(h.error, q.last_error)
  from unnest(v_held, v_errors) as h (at, error)
  where q.ctid = h.at;
end;
$$;

comment on function webhookpub.release_deliveries (text[], integer[], text[]) is
  'Gives back leased deliveries of which nothing was sent, each with the number of its attempt and, if there is one, the error that it keeps.';
