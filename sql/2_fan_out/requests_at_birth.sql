-- Says what to POST for deliveries that are born leased, where that is little: the answer of the
-- fan-out brings it along, and saves its worker a question for each event.
--
-- Called by  webhookpub.fan_out_batch.
-- Returns    an array of what webhookpub.lease_requests would return, or null: then it is asked.
--
-- Little is what leaves the server in one piece, behind the commit. What is more leaves it before, and
-- would hold the locks of the batch for as long as a worker that has frozen does not read it. Whatever
-- goes wrong here is no error of the batch: whoever asks hears of it.

create or replace function webhookpub.requests_at_birth (
  p_delivery_ids text[],
  p_events webhookpub.events[]
)
  returns json
  language plpgsql
  volatile
as $$
declare
  v_most constant integer := 6000;
  v_requests json;
begin
  if cardinality(p_delivery_ids) <= 5
    and (select max(octet_length(e.envelope)) from unnest(p_events) as e)
      * cardinality(p_delivery_ids) <= v_most
  then
    select json_agg(r) into v_requests from webhookpub.signed_requests(p_delivery_ids) as r;
  end if;
  return case when octet_length(v_requests::text) <= v_most then v_requests end;
exception when others then
  return null;
end;
$$;

comment on function webhookpub.requests_at_birth (text[], webhookpub.events[]) is
  'What to POST for these deliveries, which are new, leased, and of these events; null: it is too much to go along.';
