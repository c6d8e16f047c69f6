-- Puts off the answers that would end a delivery of an ordered webhook while somebody holds the next
-- one with its ordering key.
--
-- Called by  webhookpub.record_attempts.
-- Locks      the next ones (webhookpub.hold_turns).
-- Returns    all answers, those with the verdict "held"; and where the next ones are in the queue.

create or replace function webhookpub.put_off_answers (
  p_answers webhookpub.answer[],
  out answers webhookpub.answer[],
  out turns tid[]
)
  language plpgsql
  volatile
as $$
declare
  v_held_ids text[];
begin
  select h.turns, h.held_ids into turns, v_held_ids
  from (
    select
      array_agg(a.delivery_id) as ids, array_agg(a.webhook_id) as webhook_ids,
      array_agg(a.ordering_key) as ordering_keys
    from unnest(p_answers) as a
    where a.ordering_key is not null and a.verdict in ('delivered', 'failed')
  ) as a
  cross join lateral webhookpub.hold_turns(a.ids, a.webhook_ids, a.ordering_keys) as h;
  answers := p_answers;
  if v_held_ids is not null then
    for i in 1 .. cardinality(answers) loop
      if answers[i].delivery_id = any (v_held_ids) then
        answers[i].verdict := 'held';
      end if;
    end loop;
  end if;
end;
$$;

comment on function webhookpub.put_off_answers (webhookpub.answer[]) is
  'These answers, those put off that end a delivery while somebody holds whose turn it is next; and where those turns are.';
