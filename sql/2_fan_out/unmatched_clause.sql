-- Decides whether an event is for a webhook, and if not, which clause says so. This is
-- the one implementation of matching: fan-out and explain_event both ask it.
--
-- Called by  webhookpub.fan_out_events, webhookpub.explain_event, per row: no pinned path,
--            so that it is inlined. Names are qualified.
-- Returns    the first clause that does not hold, or null when all do: a match.
-- Raises     WH023, from p_until on.

create or replace function webhookpub.unmatched_clause (
  p_webhook webhookpub.webhooks,
  p_event webhookpub.events,
  p_type_patterns text[],
  p_data jsonb,
  p_until timestamptz default null
)
  returns text
  language sql
  immutable
  parallel safe
as $$
  select case
    when p_webhook.user_id <> p_event.user_id then 'user_id: another user'
    when not p_webhook.enabled then 'enabled: the webhook is disabled or deleted'
    when not p_webhook.events operator(pg_catalog.&&) p_type_patterns
      then 'events: no entry matches the type'
    when p_webhook.filter_agent_ids is not null
      and not coalesce(p_event.agent_id = any (p_webhook.filter_agent_ids), false)
      then case
        when p_event.agent_id is null then 'agent_ids: the event has none'
        else 'agent_ids: the event''s is not in the list'
      end
    when p_webhook.filter_conversation_ids is not null
      and not coalesce(
        p_event.conversation_id = any (p_webhook.filter_conversation_ids), false
      )
      then case
        when p_event.conversation_id is null then 'conversation_ids: the event has none'
        else 'conversation_ids: the event''s is not in the list'
      end
    when p_webhook.filter_labels is not null
      and not p_event.labels operator(pg_catalog.&&) p_webhook.filter_labels
      then case
        when pg_catalog.cardinality(p_event.labels) = 0 then 'labels: the event has none'
        else 'labels: none of the event''s is in the list'
      end
    when p_webhook.filter_data is not null
      and not webhookpub.data_holds(p_data, p_webhook.filter_data, p_until)
      then 'data: the predicate is not true'
  end;
$$;

comment on function webhookpub.unmatched_clause
  (webhookpub.webhooks, webhookpub.events, text[], jsonb, timestamptz) is
  'The first clause of a webhook that an event does not satisfy; null when it matches. Raises WH023 after p_until.';
