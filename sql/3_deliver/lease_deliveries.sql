-- Leases due deliveries to a worker and says all that it needs to POST them.
--
-- Called by  the deliverer of a worker, for many webhooks at once.
-- Locks      each webhook's lease, for the length of this call, in the order of their
--            hashes, which is what is locked; then the deliveries, skipping those that
--            somebody else holds; if there are suspects, every other choice of such, which
--            is not waited for.
-- Returns    one row for each leased delivery. timeout_ms is the deadline of the whole
--            exchange; the lease lasts 15 s longer, so that its answer can be recorded.
--            more: the webhook used up its room, so there may be more that is due.
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
    allowed_networks text[],
    more boolean
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set jit = off
  set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_seconds bigint;
  v_settings webhookpub.settings;
  v_suspects text[];
  v_trial_size integer;
  v_due text[];
  v_cut_short text[];
  v_first_event_at timestamptz;
  v_last_event_at timestamptz;
begin
  -- A statement of its own: the next one must see what the last holder did.
  perform pg_advisory_xact_lock(2003006833, o.hash)
  from (
    select distinct hashtext(p.id) as hash from unnest(p_webhook_ids) as p (id) order by hash
  ) as o;
  v_now := clock_timestamp();
  v_seconds := floor(extract(epoch from v_now));
  if exists (
      select
      from webhookpub.deliveries as d
      where d.status = 'pending' and d.leased and d.lost_in_a_row > 0
        and d.next_attempt_at <= v_now
    )
    and pg_try_advisory_xact_lock(2003006834, 3)
  then
    select s.ids, s.trial_size into v_suspects, v_trial_size
    from webhookpub.due_suspects(p_webhook_ids, v_now) as s;
  end if;
  select d.due, d.cut_short, d.first_event_at, d.last_event_at
  into v_due, v_cut_short, v_first_event_at, v_last_event_at
  from webhookpub.due_deliveries(p_webhook_ids, p_limits, v_now, v_suspects) as d;
  if v_due is null then
    return;
  end if;
  select s.* into v_settings from webhookpub.settings as s;

  return query
  with leased as (
    update webhookpub.deliveries as d
    set
      leased = true,
      lost = d.lost + d.leased::integer,
      -- Any answer has ended the lease: then this begins anew.
      lost_in_a_row = case when d.leased then d.lost_in_a_row + 1 else 0 end,
      trial_size = case when d.leased and d.lost_in_a_row > 0 then v_trial_size end,
      attempts = d.attempts + 1,
      last_attempt_at = v_now,
      next_attempt_at = v_now + interval '15 seconds' + coalesce(
        (select w.request_timeout from webhookpub.webhooks as w where w.id = d.webhook_id),
        v_settings.request_timeout
      )
    where d.id = any (v_due)
    returning d.id, d.webhook_id, d.event_id, d.event_type, d.event_created_at, d.attempts
  )
  select
    l.webhook_id,
    l.id,
    l.attempts,
    v_now,
    (extract(epoch from coalesce(w.request_timeout, v_settings.request_timeout)) * 1000)::integer,
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
        'x-webhook-signature', 't=' || v_seconds || ',' || g.stripe
      )
      else jsonb_build_object(
        'webhook-id', l.event_id,
        'webhook-timestamp', v_seconds::text,
        'webhook-signature', g.standard
      )
    end,
    n.body,
    v_settings.allow_http,
    v_settings.allowed_networks::text[],
    coalesce(l.webhook_id = any (v_cut_short), false)
  from leased as l
  -- Each of these is one look into an index; "offset 0" keeps the planner from joining.
  cross join lateral (
    select w.* from webhookpub.webhooks as w where w.id = l.webhook_id offset 0
  ) as w
  cross join lateral (
    select n.body
    from webhookpub.envelopes as n
    where n.event_id = l.event_id and n.created_at = l.event_created_at
      -- So that only the partitions of these days are opened.
      and n.created_at between v_first_event_at and v_last_event_at
    offset 0
  ) as n
  cross join lateral (
    select
      string_agg(
        case when w.signature_scheme = 'standard'
          then webhookpub.sign_standard(k.secret, l.event_id, v_seconds, n.body)
        end,
        ' ' order by k.id desc
      ) as standard,
      string_agg(
        case when w.signature_scheme = 'stripe'
          then webhookpub.sign_stripe(k.secret, v_seconds, n.body)
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
