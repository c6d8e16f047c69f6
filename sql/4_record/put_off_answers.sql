-- Puts off the answers that would end a delivery of an ordered webhook while somebody holds the next
-- one with its ordering key.
--
-- Called by  webhookpub.record_attempts.
-- Locks      the next ones (webhookpub.hold_turns).
-- Returns    all answers, those with the verdict "held".

create or replace function webhookpub.put_off_answers (
  p_answers webhookpub.answer[]
)
  returns webhookpub.answer[]
  language plpgsql
  volatile
as $$
declare
  v_answers webhookpub.answer[] := p_answers;
  v_held constant text[] := webhookpub.hold_turns(array(
    select a.delivery_id
    from unnest(p_answers) as a
    where a.ordering_key is not null and a.verdict in ('delivered', 'failed')
  ));
begin
  if v_held is not null then
    for i in 1 .. cardinality(v_answers) loop
      if v_answers[i].delivery_id = any (v_held) then
        v_answers[i].verdict := 'held';
      end if;
    end loop;
  end if;
  return v_answers;
end;
$$;

comment on function webhookpub.put_off_answers (webhookpub.answer[]) is
  'These answers, those put off that end a delivery while somebody holds whose turn it is next.';
