-- Says whether the heavy lane has something to do.
--
-- Called by  webhookpub.fan_out_batch, at the end of each batch of the ordinary lane.

create or replace function webhookpub.heavy_waits ()
  returns boolean
  language plpgsql
  volatile
as $$
begin
  return exists (
    select
    from webhookpub.events as e
    where e.status = 'pending'
      and e.pending_user_id < chr(2)
      and (e.retry_at is null or e.retry_at <= clock_timestamp())
  );
end;
$$;

comment on function webhookpub.heavy_waits () is
  'Whether an event waits in the heavy lane that could be fanned out now.';
