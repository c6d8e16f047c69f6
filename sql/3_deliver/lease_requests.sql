-- Says what to POST for deliveries that a worker has leased, signed with the secrets in force.
-- As many as fit into some megabytes, and one at least: whoever asked asks again for the rest.
--
-- Called by  the deliverer of a worker. It writes nothing and locks nothing: whatever becomes
--            of the worker while this travels, nobody waits for it.
-- Returns    one row for each. If problem is not null, it can't be sent, for that reason: then
--            the worker gives it back (webhookpub.release_deliveries), and the others go.

create or replace function webhookpub.lease_requests (
  p_delivery_ids text[]
)
  returns table (
    delivery_id text,
    event_id text,
    event_type text,
    url text,
    headers jsonb,
    signature_scheme text,
    signed_at bigint,
    signature text,
    body text,
    timeout_ms integer,
    policy text,
    awaited boolean,
    problem text
  )
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
#variable_conflict use_column
begin
  return query select * from webhookpub.signed_requests(p_delivery_ids);
exception when data_exception or integrity_constraint_violation or external_routine_exception
    or external_routine_invocation_exception then
  -- One of them is the culprit; some at a time, for each takes a look of its own.
  foreach delivery_id in array p_delivery_ids[: 20] loop
    begin
      return query select * from webhookpub.signed_requests(array[delivery_id]);
    exception when data_exception or integrity_constraint_violation or external_routine_exception
        or external_routine_invocation_exception then
      problem := format('it can''t be signed: %s (%s)', sqlerrm, sqlstate);
      return next;
      problem := null;
    end;
  end loop;
end;
$$;

comment on function webhookpub.lease_requests (text[]) is
  'What to POST for these leased deliveries, signed; as many of them as fit into 8 MB, but one.';
