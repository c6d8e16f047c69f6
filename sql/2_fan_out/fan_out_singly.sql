-- Fans out the events of a batch that failed, one by one, until some seconds are over: what is
-- left then is pending as before.
--
-- Called by  webhookpub.fan_out_batch.
-- Locks      the events, skipping those that another fan-out has meanwhile.
-- Returns    how many were fanned out, how many deliveries that made, and the webhooks that
--            they are for.

create or replace function webhookpub.fan_out_singly (
  p_events webhookpub.events[],
  p_why text,
  out event_count integer,
  out delivery_count integer,
  out webhook_ids text[]
)
  language plpgsql
  volatile
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '3 seconds';
  v_id text;
  v_events webhookpub.events[];
  v_done record;
begin
  event_count := 0;
  delivery_count := 0;
  if cardinality(p_events) > 1 then
    -- A culprit keeps its error. If there is none, nothing else tells of this one.
    raise warning 'a batch of % events goes one by one: %', cardinality(p_events), p_why;
  end if;
  foreach v_id in array array(select e.id from unnest(p_events) as e) loop
    begin
      select array_agg(p.event) into v_events
      from (
        select e as event
        from webhookpub.events as e
        where e.id = v_id and e.status = 'pending'
        for update skip locked
      ) as p;
      if v_events[1].ordering_key is not null then
        v_events := webhookpub.keep_order(v_events);
      end if;
      continue when v_events is null;
      v_done := webhookpub.fan_out_events(v_events);
      webhook_ids := webhook_ids || v_done.webhook_ids;
      event_count := event_count + 1;
      delivery_count := delivery_count + v_done.delivery_count;
    exception
      when query_canceled then
        if not webhookpub.time_is_up() then
          raise;
        end if;
        perform webhookpub.fail_events(array[v_id], format('%s (%s)', sqlerrm, sqlstate));
        exit;
      when others then
        perform webhookpub.fail_events(array[v_id], format('%s (%s)', sqlerrm, sqlstate));
    end;
    exit when clock_timestamp() > v_until or webhookpub.time_is_up(0.5);
  end loop;
end;
$$;

comment on function webhookpub.fan_out_singly (webhookpub.events[], text) is
  'Fans events out one by one; a culprit keeps its error and waits, while the others go on.';
