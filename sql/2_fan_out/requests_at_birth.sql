-- Says what to POST for deliveries that are born leased, where that is little: the answer of the
-- fan-out brings it along, and saves its worker a question for each event.
--
-- Called by  webhookpub.fan_out_batch.
-- Returns    an array of what webhookpub.lease_requests would return, or null: then it is asked.
--
-- Little is what leaves the server in one piece, behind the commit. What is more leaves it before, and
-- would hold the locks of the batch for as long as a worker that has frozen does not read it.

create or replace function webhookpub.requests_at_birth (
  p_delivery_ids text[]
)
  returns json
  language plpgsql
  volatile
as $$
declare
  v_requests json;
begin
  if cardinality(p_delivery_ids) <= 5 then
    select json_agg(r) into v_requests from webhookpub.signed_requests(p_delivery_ids) as r;
  end if;
  return case when octet_length(v_requests::text) <= 6000 then v_requests end;
exception when data_exception or integrity_constraint_violation or external_routine_exception then
  return null; -- One of them is at fault: whoever asks hears which.
end;
$$;

comment on function webhookpub.requests_at_birth (text[]) is
  'What to POST for these deliveries, which are new and leased; null: it is too much to go along.';
