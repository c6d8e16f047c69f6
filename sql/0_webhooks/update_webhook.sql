-- Changes a webhook; what is null stays as it is. Counts for events fanned out from now
-- on, and for attempts begun from now on. A new URL is tried at once, whatever the
-- circuit of the old one was. Without order, what waits for its turn is due at once; by another
-- pace, what waits for that goes by the new one at once.
--
-- Called by  applications, psql.
-- Locks      the webhook.
-- Raises     WH010, WH011, WH012, WH020, WH021.

create or replace function webhookpub.update_webhook (
  p_webhook_id text,
  p_url text default null,
  p_events text[] default null,
  p_filters jsonb default null,
  p_description text default null,
  p_headers jsonb default null,
  p_max_in_flight integer default null,
  p_retry_schedule interval[] default null,
  p_request_timeout interval default null,
  p_ordered boolean default null,
  p_max_per_second numeric default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_webhook webhookpub.webhooks := webhookpub.lock_webhook(p_webhook_id);
  v_moved constant boolean := coalesce(p_url <> v_webhook.url, false);
  v_freed constant boolean := v_webhook.ordered and not coalesce(p_ordered, true);
begin
  v_webhook.url := coalesce(p_url, v_webhook.url);
  v_webhook.events := coalesce(p_events, v_webhook.events);
  v_webhook.filters := coalesce(p_filters, v_webhook.filters);
  v_webhook.description := coalesce(p_description, v_webhook.description);
  v_webhook.headers := coalesce(p_headers, v_webhook.headers);
  v_webhook.max_in_flight := coalesce(p_max_in_flight, v_webhook.max_in_flight);
  v_webhook.retry_schedule := coalesce(p_retry_schedule, v_webhook.retry_schedule);
  v_webhook.request_timeout := coalesce(p_request_timeout, v_webhook.request_timeout);
  v_webhook.ordered := coalesce(p_ordered, v_webhook.ordered);
  v_webhook.max_per_second := coalesce(p_max_per_second, v_webhook.max_per_second);
  perform webhookpub.check_webhook(v_webhook);

  update webhookpub.webhooks as w
  set
    url = v_webhook.url,
    events = v_webhook.events,
    filters = v_webhook.filters,
    description = v_webhook.description,
    headers = webhookpub.lower_names(v_webhook.headers),
    max_in_flight = v_webhook.max_in_flight,
    retry_schedule = v_webhook.retry_schedule,
    request_timeout = v_webhook.request_timeout,
    ordered = v_webhook.ordered,
    max_per_second = nullif(v_webhook.max_per_second, 'infinity'),
    unanswered = case when v_moved then 0 else w.unanswered end,
    circuit_opened_at = case when not v_moved then w.circuit_opened_at end,
    circuit_retry_at = case when not v_moved then w.circuit_retry_at end,
    paused_until = case when not v_moved then w.paused_until end
  where w.id = p_webhook_id;
  if v_freed then
    perform webhookpub.end_order(p_webhook_id);
  end if;
  if v_freed or p_max_per_second is not null
    or v_moved and coalesce(v_webhook.circuit_opened_at, v_webhook.paused_until) is not null
  then
    perform webhookpub.add_deliver_jobs(array[p_webhook_id]);
  end if;
end;
$$;

comment on function webhookpub.update_webhook
  (text, text, text[], jsonb, text, jsonb, integer, interval[], interval, boolean, numeric) is
  'Changes a webhook; null leaves a value as it is, and infinity takes max_per_second away. Raises WH010, WH011, WH012, WH020, WH021.';
