-- Says for every webhook of an event's user whether it matches, and if not, why.
--
-- Called by  psql, as whoever asks: an event that its caller may not see is not there.
-- Returns    one row a webhook, in the order of their creation. Once fan-out has decided,
--            matched is its decision; if the webhook has changed since, reason says so.
-- Raises     WH020.

create or replace function webhookpub.explain_event (
  event_id text
)
  returns table (
    webhook_id text,
    matched boolean,
    reason text
  )
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_event webhookpub.events;
  v_data jsonb;
begin
  select e.* into v_event from webhookpub.events as e where e.id = explain_event.event_id;
  if not found then
    raise exception using
      errcode = 'WH020',
      message = format(
        'no such event: %s', coalesce(quote_literal(left(explain_event.event_id, 210)), 'null')
      ),
      hint = 'Events are kept for settings.event_retention.';
  end if;
  v_data := coalesce(
    v_event.envelope, webhookpub.stored_envelope(v_event.id, v_event.created_at)
  )::jsonb -> 'data';

  return query
  select
    w.id,
    case v_event.status
      when 'pending' then u.clause is null
      else w.id = any (v_event.matched_webhook_ids)
    end,
    case
      when v_event.status = 'pending' or (u.clause is null) = (w.id = any (v_event.matched_webhook_ids))
        then coalesce(u.clause, 'every clause holds')
      when u.clause is null
        then 'every clause holds now; the webhook is newer than the decision, or has changed'
      else 'matched when it was fanned out; now ' || u.clause
    end
  from webhookpub.webhooks as w
  cross join lateral (
    select webhookpub.unmatched_clause(
      w, v_event, webhookpub.type_patterns(v_event.type), v_data
    )
  ) as u (clause)
  where w.user_id = v_event.user_id
  order by w.created_at, w.id;
end;
$$;

comment on function webhookpub.explain_event (text) is
  'For each webhook of the event''s user: whether it matches and which clause decided. Raises WH020.';
