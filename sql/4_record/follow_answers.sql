-- Does what answers bring with them beyond their own deliveries: whose turn it is goes, who is gone
-- is disabled, what has failed is told, and the next suspect may be tried.
--
-- Called by  webhookpub.record_attempts, which has moved the deliveries.
-- Returns    the deliveries whose answers have to be told again, and the webhooks for which a turn
--            has passed on.

create or replace function webhookpub.follow_answers (
  p_answers webhookpub.answer[],
  p_turns tid[],
  p_now timestamptz,
  out held_ids text[],
  out ready_webhook_ids text[]
)
  language plpgsql
  volatile
as $$
declare
  v_seen record;
begin
  select
    array_agg(a.delivery_id) filter (where a.verdict = 'held') as held,
    array_agg(a.delivery_id) filter (where a.verdict = 'failed') as failed,
    array_agg(a.webhook_id) filter (where a.verdict = 'failed' and a.status_code = 410) as gone,
    bool_or(a.suspected) as suspected
  into v_seen
  from unnest(p_answers) as a;
  if p_turns is not null then
    ready_webhook_ids := webhookpub.pass_turns(p_turns, p_now);
  end if;
  if v_seen.gone is not null then
    perform webhookpub.disable_webhooks(v_seen.gone, 'gone');
  end if;
  if v_seen.failed is not null then
    perform webhookpub.publish_delivery_failed(v_seen.failed);
  end if;
  if v_seen.suspected then
    -- A suspect less is under way: the next may be tried.
    perform webhookpub.wake_suspects(p_now);
  end if;
  held_ids := coalesce(v_seen.held, '{}');
end;
$$;

comment on function webhookpub.follow_answers (webhookpub.answer[], tid[], timestamptz) is
  'Passes turns on, disables who is gone, tells what has failed; returns the deliveries that somebody holds, and the webhooks for which a turn has passed on.';
