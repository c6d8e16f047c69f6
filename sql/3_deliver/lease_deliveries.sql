-- Leases due deliveries to a worker and says all that it needs to POST them.
--
-- Called by  the task webhook_deliver, for many webhooks at once.
-- Locks      each webhook's lease, for the length of this call, in the order of their
--            ids; then the deliveries, skipping those that somebody else holds.
-- Returns    one row for each leased delivery. timeout_ms is the deadline of the whole
--            exchange; the lease lasts 15 s longer, so that its answer can be recorded.
--
-- The lease is next_attempt_at itself: an answer, a retry and a worker that died are all
-- the same thing, a pending row that is due or not.

create or replace function webhookpub.lease_deliveries (
  p_webhook_ids text[],
  p_limits integer[] default null
)
  returns table (
    webhook_id text,
    delivery_id text,
    attempt integer,
    started_at timestamptz,
    timeout_ms integer,
    url text,
    headers jsonb,
    body text,
    allow_http boolean,
    allowed_networks text[]
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- Leasing walks from few webhooks to few deliveries, whatever stale statistics say.
  set enable_hashjoin = off
  set enable_mergejoin = off
  set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
begin
  -- A statement of its own: the next one must see what the last holder did.
  perform pg_advisory_xact_lock(2003006833, hashtext(o.id))
  from (select distinct p.id from unnest(p_webhook_ids) as p (id) order by p.id) as o;
  v_now := clock_timestamp();

  return query
  with webhook as materialized (
    select
      w.id, w.url, w.headers, w.signature_scheme,
      coalesce(w.request_timeout, s.request_timeout) as timeout,
      s.allow_http,
      s.allowed_networks::text[] as allowed_networks,
      least(p.room, w.max_in_flight - (
        select count(*)
        from webhookpub.deliveries as d
        where d.webhook_id = w.id and d.status = 'pending' and d.leased
          and d.next_attempt_at > v_now
      )) as room
    from unnest(p_webhook_ids, p_limits) as p (id, room)
    join webhookpub.webhooks as w on w.id = p.id and w.enabled
    cross join webhookpub.settings as s
  ),
  due as materialized (
    select w.id as webhook_id, f.id
    from webhook as w
    cross join lateral (
      select u.id
      from (
        -- Those whose worker was lost come first.
        select l.id
        from (
          select d.id
          from webhookpub.deliveries as d
          where d.webhook_id = w.id and d.status = 'pending' and d.leased
            and d.next_attempt_at <= v_now
          order by d.next_attempt_at
          limit greatest(w.room, 0)
          for update skip locked
        ) as l
        union all
        select r.id
        from (
          select d.id
          from webhookpub.deliveries as d
          where d.webhook_id = w.id and d.status = 'pending' and not d.leased
            and d.next_attempt_at <= v_now
          order by d.next_attempt_at
          limit greatest(w.room, 0)
          for update skip locked
        ) as r
      ) as u
      limit greatest(w.room, 0)
    ) as f
  ),
  leased as (
    update webhookpub.deliveries as d
    set
      leased = true,
      lost = d.lost + d.leased::integer,
      attempts = d.attempts + 1,
      last_attempt_at = v_now,
      next_attempt_at = v_now + w.timeout + interval '15 seconds'
    from due as u
    join webhook as w on w.id = u.webhook_id
    where d.id = u.id
    returning d.id, d.webhook_id, d.event_id, d.event_type, d.event_created_at, d.attempts
  )
  select
    l.webhook_id,
    l.id,
    l.attempts,
    v_now,
    (extract(epoch from w.timeout) * 1000)::integer,
    w.url,
    w.headers || jsonb_build_object(
      'content-type', 'application/json',
      'user-agent', 'webhookpub/' || webhookpub.version(),
      'accept-encoding', 'identity',
      'webhook-event-type', l.event_type,
      'webhook-delivery-id', l.id,
      'webhook-attempt', l.attempts::text
    ) || case w.signature_scheme
      when 'stripe' then jsonb_build_object(
        'x-webhook-signature', 't=' || t.seconds || ',' || g.stripe
      )
      else jsonb_build_object(
        'webhook-id', l.event_id,
        'webhook-timestamp', t.seconds::text,
        'webhook-signature', g.standard
      )
    end,
    n.body,
    w.allow_http,
    w.allowed_networks
  from leased as l
  join webhook as w on w.id = l.webhook_id
  join webhookpub.envelopes as n
    on n.event_id = l.event_id and n.created_at = l.event_created_at
  cross join (select floor(extract(epoch from v_now))::bigint as seconds) as t
  cross join lateral (
    select
      string_agg(
        case when w.signature_scheme = 'standard'
          then webhookpub.sign_standard(k.secret, l.event_id, t.seconds, n.body)
        end,
        ' ' order by k.id desc
      ) as standard,
      string_agg(
        case when w.signature_scheme = 'stripe'
          then webhookpub.sign_stripe(k.secret, t.seconds, n.body)
        end,
        ',' order by k.id desc
      ) as stripe
    from webhookpub.secrets as k
    where k.webhook_id = w.id and (k.expires_at is null or k.expires_at > v_now)
  ) as g;
end;
$$;

comment on function webhookpub.lease_deliveries (text[], integer[]) is
  'Leases due deliveries of these webhooks, at most p_limits of each, within max_in_flight; returns the requests, signed.';
