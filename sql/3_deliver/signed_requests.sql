-- Puts the requests of deliveries together and signs them.
--
-- Called by  webhookpub.lease_requests, webhookpub.requests_at_birth.
-- Returns    as many of them, in order, as have bodies of 8 MB together, and one at least.
--
-- Where a webhook keeps order, or has little room, others wait until an answer is recorded, on any worker:
-- that is "awaited". A webhook has one secret, or during a rotation two.

create or replace function webhookpub.signed_requests (
  p_delivery_ids text[]
)
  returns table (
    delivery_id text,
    event_id text,
    event_type text,
    url text,
    headers jsonb,
    signature_scheme text,
    signed_at bigint,
    signature text,
    body text,
    timeout_ms integer,
    policy text,
    awaited boolean,
    problem text
  )
  language plpgsql
  volatile
as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := clock_timestamp();
  v_seconds constant bigint := floor(extract(epoch from v_now));
  v_settings webhookpub.settings;
  v_policy text;
  v_history webhookpub.delivery_history[];
  v_first_event_at timestamptz;
  v_last_event_at timestamptz;
begin
  select s.* into v_settings from webhookpub.settings as s;
  v_policy := json_build_object(
    'allowHttp', v_settings.allow_http, 'allowed', v_settings.allowed_networks::text[]
  );
  -- A row of its own type: one of a subquery's is "record", and goes through text to become another.
  select array_agg(h.row), min((h.row).event_created_at), max((h.row).event_created_at)
  into v_history, v_first_event_at, v_last_event_at
  from unnest(p_delivery_ids) as p (id)
  cross join lateral (
    select h as row from webhookpub.delivery_history as h where h.id = p.id offset 0
  ) as h;

  return query
  select
    h.id, h.event_id, h.event_type, w.url, w.headers, w.signature_scheme, v_seconds, g.signature,
    h.body,
    (extract(epoch from coalesce(w.request_timeout, v_settings.request_timeout)) * 1000)::integer,
    v_policy, w.ordered or w.max_in_flight <= 10,
    case
      when h.body is null then 'its envelope is gone'
      when g.signature is null then 'its webhook has no secret'
    end
  from (
    select
      h.id, h.webhook_id, h.event_id, h.event_type, n.body,
      sum(octet_length(n.body)) over (rows unbounded preceding) - octet_length(n.body) as before
    from unnest(v_history) as h
    -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
    left join lateral (
      select n.body
      from webhookpub.envelopes as n
      where n.event_id = h.event_id and n.created_at = h.event_created_at
        -- So that only the partitions of these days are opened.
        and n.created_at between v_first_event_at and v_last_event_at
      offset 0
    ) as n on true
    offset 0
  ) as h
  cross join lateral (
    select w.url, w.headers, w.signature_scheme, w.request_timeout, w.ordered, w.max_in_flight
    from webhookpub.webhooks as w
    where w.id = h.webhook_id
    offset 0
  ) as w
  cross join lateral (
    select
      max(k.secret) filter (where k.expires_at is null) as current,
      max(k.secret) filter (where k.expires_at > v_now) as previous
    from webhookpub.secrets as k
    where k.webhook_id = h.webhook_id
    offset 0
  ) as k
  cross join lateral (
    select webhookpub.sign_request(
      w.signature_scheme, k.current, k.previous, h.event_id, v_seconds, h.body
    ) as signature
    offset 0
  ) as g
  where h.before is null or h.before < 8000000;
end;
$$;

comment on function webhookpub.signed_requests (text[]) is
  'The requests of these deliveries, signed; as many as have bodies of 8 MB together, but one at least.';
