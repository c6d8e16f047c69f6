--! Previous: sha1:30225b8857d898313f0481be5fa7a660c2143874
--! Hash: sha1:e85474e756ce6dc2cc40f6b2d650609ff960ea7b
--! Message: nobody is waited for

-- Recording and upkeep skip the rows that somebody else holds: one open transaction does not
-- keep everybody's answers from being recorded, and nothing ends in a deadlock.

drop function webhookpub.record_attempts
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[]);
drop function webhookpub.cancel_deliveries (text);

--! Included 0_webhooks/cancel_deliveries.sql
-- Cancels pending deliveries.
--
-- Called by  webhookpub.delete_webhook, webhookpub.cancel_deleted, which have locked them.
-- Returns    how many.

create or replace function webhookpub.cancel_deliveries (
  p_delivery_ids text[]
)
  returns bigint
  language sql
  volatile
as $$
  with cancelled as (
    update webhookpub.deliveries as d
    set status = 'cancelled', leased = false, next_attempt_at = null
    where d.id = any (p_delivery_ids)
    returning d.id
  )
  select count(*) from cancelled;
$$;

comment on function webhookpub.cancel_deliveries (text[]) is
  'Cancels these deliveries, which are pending and locked; returns how many.';
--! EndIncluded 0_webhooks/cancel_deliveries.sql
--! Included 0_webhooks/delete_webhook.sql
-- Deletes a webhook for good: pending deliveries are cancelled and its secrets erased;
-- history stays until it expires.
--
-- Called by  applications, psql.
-- Locks      the webhook, then its pending deliveries, in the order of their ids: what is
--            being recorded or leased is waited for, and waits for nobody itself.
-- Raises     WH020, WH021.

create or replace function webhookpub.delete_webhook (
  p_webhook_id text
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform webhookpub.lock_webhook(p_webhook_id);
  update webhookpub.webhooks as w
  set
    enabled = false,
    disabled_at = coalesce(w.disabled_at, clock_timestamp()),
    disabled_reason = 'deleted',
    deleted_at = clock_timestamp(),
    -- They may carry credentials of the receiver.
    headers = '{}'
  where w.id = p_webhook_id;
  delete from webhookpub.secrets as s where s.webhook_id = p_webhook_id;
  perform webhookpub.cancel_deliveries(array(
    select d.id
    from webhookpub.deliveries as d
    where d.webhook_id = p_webhook_id and d.status = 'pending'
    order by d.id
    for update
  ));
end;
$$;

comment on function webhookpub.delete_webhook (text) is
  'Deletes a webhook for good: cancels what is pending, erases its secrets, keeps its history. Raises WH020, WH021.';
--! EndIncluded 0_webhooks/delete_webhook.sql
--! Included 3_deliver/lease_deliveries.sql
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
--! EndIncluded 3_deliver/lease_deliveries.sql
--! Included 4_record/record_attempts.sql
-- Records what came back, and decides what becomes of each delivery.
--
-- Called by  the deliverer of a worker, for many requests at once; safe to repeat.
-- Locks      the deliveries; webhooks only when their health changes. What somebody else
--            holds is skipped, never waited for: one application that leaves a transaction
--            open must not keep the answers of all others from being recorded.
-- Returns    the deliveries whose answers have to be told again, for somebody holds them.
--
-- Every answer is kept as an attempt. An answer counts if it is to the latest attempt of
-- a pending delivery; a late 2xx counts as long as the delivery is pending. Anything else
-- changes nothing, so that state never goes back.
--
-- A few answers go by a plan that is kept, for planning takes longer than the rest. It may have
-- been made when tables were small: so it looks up row by row, and never joins a whole table.
-- Many are worth a plan for their number.
--
-- A webhook's health is approximate: what answers say of it (last_delivered_at, failing_since,
-- failures, its circuit) is lost while somebody else holds the webhook, be it another record.
-- Later answers say it again: a circuit may open or close some attempts late. None is disabled
-- because of that (webhookpub.disable_failing), and a 410 is recorded with its webhook or later.
--
-- A webhook's circuit opens when too many of its attempts in a row got no HTTP answer
-- (webhookpub.circuit_pause), and closes with the first one, whatever its status.

create or replace function webhookpub.record_attempts (
  p_delivery_ids text[],
  p_attempts integer[],
  p_started_at timestamptz[],
  p_durations_ms integer[],
  p_outcomes text[],
  p_status_codes integer[],
  p_errors text[],
  p_response_bodies text[],
  p_retry_afters text[]
)
  returns text[]
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set enable_hashjoin = on
  set enable_mergejoin = on
  set enable_seqscan = off
  set jit = off
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  -- Not joined: the planner takes the one row of settings for hundreds, and would read every
  -- webhook.
  v_min_failures constant integer := (
    select s.auto_disable_min_failures from webhookpub.settings as s
  );
  v_held text[] := '{}';
  v_found text[];
  v_gone text[];
  v_failed text[];
  v_tried boolean;
begin
  if cardinality(p_delivery_ids) <= 20 then
    perform set_config('plan_cache_mode', 'force_generic_plan', true);
    perform set_config('enable_hashjoin', 'off', true);
    perform set_config('enable_mergejoin', 'off', true);
  end if;
  -- The webhook of a 410 is to be disabled, or else its answer waits, too.
  if 410 = any (p_status_codes) then
    with gone as materialized (
      select d.id, d.webhook_id
      from unnest(p_delivery_ids, p_status_codes) as r (delivery_id, status_code)
      join webhookpub.deliveries as d on d.id = r.delivery_id
      join webhookpub.webhooks as w on w.id = d.webhook_id
      where r.status_code = 410 and d.status = 'pending' and w.enabled
    ),
    locked as materialized (
      select w.id
      from webhookpub.webhooks as w
      where w.id in (select g.webhook_id from gone as g)
      for no key update of w skip locked
    )
    select coalesce(array_agg(g.id) filter (where l.id is null), '{}') into v_held
    from gone as g
    left join locked as l on l.id = g.webhook_id;
  end if;

  with answer as materialized (
    select
      r.delivery_id, r.attempt, r.started_at, r.duration_ms, r.outcome, r.status_code,
      r.response_body, r.retry_after,
      case when (r.status_code between 200 and 299) is not true
        then coalesce(r.error, 'HTTP ' || r.status_code)
      end as error,
      coalesce(r.status_code between 200 and 299, false) as succeeded,
      coalesce(r.status_code = 410, false) as gone
    from unnest(
      p_delivery_ids, p_attempts, p_started_at, p_durations_ms, p_outcomes,
      p_status_codes, p_errors, p_response_bodies, p_retry_afters
    ) as r (
      delivery_id, attempt, started_at, duration_ms, outcome,
      status_code, error, response_body, retry_after
    )
  ),
  target as materialized (
    select d.id, d.webhook_id, d.status, d.leased, d.attempts, d.lost, d.max_attempts,
      d.lost_in_a_row > 1 as tried
    from webhookpub.deliveries as d
    where d.id = any (p_delivery_ids) and d.id <> all (v_held)
    for update skip locked
  ),
  kept as (
    insert into webhookpub.attempts
      (delivery_id, attempt, started_at, duration_ms, outcome, status_code, error,
       response_body, webhook_id)
    select
      a.delivery_id, a.attempt, a.started_at, a.duration_ms, a.outcome, a.status_code,
      a.error, a.response_body, t.webhook_id
    from answer as a
    join target as t on t.id = a.delivery_id
    on conflict do nothing
  ),
  decided as materialized (
    select distinct on (t.id)
      t.id, t.webhook_id, t.tried, a.succeeded, a.gone, a.outcome, a.status_code, a.error,
      case
        when a.succeeded then 'delivered'
        when a.gone or t.attempts - t.lost >= t.max_attempts then 'failed'
        else 'pending'
      end as status,
      case when not a.succeeded then webhookpub.next_attempt_at(
        w.retry_schedule,
        t.attempts - t.lost,
        case when a.status_code in (429, 503) then webhookpub.retry_after(a.retry_after, v_now) end,
        v_now
      ) end as next_attempt_at
    from answer as a
    join target as t on t.id = a.delivery_id
    join webhookpub.webhooks as w on w.id = t.webhook_id
    where t.status = 'pending' and ((t.leased and a.attempt = t.attempts) or a.succeeded)
    order by t.id, a.succeeded desc
  ),
  updated as (
    update webhookpub.deliveries as d
    set
      status = c.status,
      leased = false,
      next_attempt_at = case when c.status = 'pending' then c.next_attempt_at end,
      delivered_at = case when c.status = 'delivered' then v_now end,
      last_status_code = c.status_code,
      last_error = c.error
    from decided as c
    -- Whichever is read first: only these, by their index.
    where d.id = c.id and d.id = any (p_delivery_ids)
  ),
  health as (
    select
      c.webhook_id,
      bool_or(c.succeeded) as succeeded,
      count(*) as attempts,
      bool_or(c.outcome = 'responded') as answered
    from decided as c
    group by c.webhook_id
  ),
  changed as materialized (
    select
      w.id, h.succeeded, h.attempts, h.answered,
      -- While a circuit is open, only a probe counts, and what is as late as one.
      case
        when h.answered then 0
        when w.circuit_opened_at is null then w.unanswered + h.attempts
        when w.circuit_retry_at <= v_now then w.unanswered + 1
        else w.unanswered
      end::integer as unanswered
    from health as h
    join webhookpub.webhooks as w on w.id = h.webhook_id
    where case
      when h.succeeded then
        w.failing_since is not null
        or w.last_delivered_at is null
        or w.last_delivered_at < v_now - interval '10 seconds'
      else w.failing_since is null or w.failures < v_min_failures
    end
    or case
      when h.answered then w.unanswered > 0
      else w.circuit_opened_at is null or w.circuit_retry_at <= v_now
    end
    for no key update of w skip locked
  ),
  rated as (
    update webhookpub.webhooks as w
    set
      last_delivered_at = case when c.succeeded then v_now else w.last_delivered_at end,
      failing_since = case when not c.succeeded then coalesce(w.failing_since, v_now) end,
      failures = case when c.succeeded then 0 else w.failures + c.attempts end,
      unanswered = c.unanswered,
      circuit_opened_at =
        case when c.pause is not null then coalesce(w.circuit_opened_at, v_now) end,
      circuit_retry_at = case
        when c.unanswered = w.unanswered then w.circuit_retry_at
        else v_now + c.pause
      end
    from (select c.*, webhookpub.circuit_pause(c.unanswered) as pause from changed as c) as c
    where w.id = c.id
  )
  select
    (select array_agg(t.id) from target as t),
    array_agg(distinct c.webhook_id) filter (where c.gone),
    array_agg(c.id) filter (where c.status = 'failed'),
    bool_or(c.tried)
  into v_found, v_gone, v_failed, v_tried
  from decided as c;

  if v_gone is not null then
    perform webhookpub.disable_webhooks(v_gone, 'gone');
  end if;
  if v_failed is not null then
    perform webhookpub.publish_delivery_failed(v_failed);
  end if;
  if v_tried then
    -- A suspect less is under way: the next may be tried.
    perform webhookpub.add_deliver_jobs(s.webhook_ids)
    from webhookpub.due_suspects(null, v_now) as s
    where s.webhook_ids is not null;
  end if;
  if cardinality(v_found) = cardinality(p_delivery_ids) then
    return '{}';
  end if;
  return array(
    select d.id
    from webhookpub.deliveries as d
    where d.id = any (p_delivery_ids) and d.id <> all (coalesce(v_found, '{}'))
  );
end;
$$;

comment on function webhookpub.record_attempts
  (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[]) is
  'Records answers (parallel arrays) and moves each delivery to delivered, failed or its next attempt; returns those that somebody holds, for later.';
--! EndIncluded 4_record/record_attempts.sql
--! Included 4_record/disable_webhooks.sql
-- Disables webhooks for a reason of the system's own, and tells their users.
--
-- Called by  webhookpub.record_attempts (gone), webhookpub.disable_failing (failing).
-- Locks      the webhooks, which its callers have locked already; it waits for none.
-- Returns    how many were enabled until now; only those are told of.

create or replace function webhookpub.disable_webhooks (
  p_webhook_ids text[],
  p_reason text
)
  returns bigint
  language sql
  volatile
as $$
  with enabled as materialized (
    select w.id
    from webhookpub.webhooks as w
    where w.id = any (p_webhook_ids) and w.enabled
    for no key update skip locked
  ),
  disabled as (
    update webhookpub.webhooks as w
    set enabled = false, disabled_at = clock_timestamp(), disabled_reason = p_reason
    from enabled as e
    where w.id = e.id
    returning w.*
  )
  select count(coalesce(public.webhook_publish_best_effort_tx(
    'webhook.disabled',
    d.user_id,
    jsonb_build_object(
      'webhook_id', d.id,
      'url', d.url,
      'reason', d.disabled_reason,
      'disabled_at', webhookpub.rfc3339(d.disabled_at),
      'failing_since', webhookpub.rfc3339(d.failing_since),
      'last_delivered_at', webhookpub.rfc3339(d.last_delivered_at)
    )
  ), ''))
  from disabled as d;
$$;

comment on function webhookpub.disable_webhooks (text[], text) is
  'Disables those of these webhooks that are enabled and publishes webhook.disabled for each.';
--! EndIncluded 4_record/disable_webhooks.sql
--! Included 6_maintain/cancel_deleted.sql
-- Cancels deliveries that a fan-out made while their webhook was being deleted.
--
-- Called by  webhookpub.maintain.
-- Locks      the deliveries, skipping those that somebody else holds.
-- Returns    how many.

create or replace function webhookpub.cancel_deleted ()
  returns bigint
  language sql
  volatile
  -- Planned for the sizes at hand: a plan that was kept from empty tables reads full ones.
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
  with pending as materialized (
    select d.id
    from webhookpub.webhooks as w
    cross join lateral (
      select d.id
      from webhookpub.deliveries as d
      where d.webhook_id = w.id and d.status = 'pending'
      for update skip locked
    ) as d
    where w.deleted_at is not null
  )
  select webhookpub.cancel_deliveries(array(select p.id from pending as p));
$$;

comment on function webhookpub.cancel_deleted () is
  'Cancels pending deliveries of deleted webhooks; returns how many.';
--! EndIncluded 6_maintain/cancel_deleted.sql
--! Included 6_maintain/disable_failing.sql
-- Disables webhooks that have only failed for too long.
--
-- Called by  webhookpub.maintain.
-- Locks      the webhooks, skipping those that somebody else holds, be it to record a
--            success: the next round looks again.
-- Returns    how many.
--
-- What failing_since says is approximate (webhookpub.record_attempts); attempts are not, so
-- they decide.

create or replace function webhookpub.disable_failing (
  p_now timestamptz default clock_timestamp()
)
  returns bigint
  language sql
  volatile
as $$
  select webhookpub.disable_webhooks(array(
    select w.id
    from webhookpub.webhooks as w
    cross join webhookpub.settings as s
    where w.enabled
      and w.failing_since <= p_now - s.auto_disable_after
      and w.failures >= s.auto_disable_min_failures
      and not exists (
        select
        from webhookpub.attempts as a
        where a.webhook_id = w.id
          and a.started_at > p_now - s.auto_disable_after
          and a.status_code between 200 and 299
        offset 0
      )
    for no key update of w skip locked
  ), 'failing');
$$;

comment on function webhookpub.disable_failing (timestamptz) is
  'Disables webhooks without a success, but enough failures, for settings.auto_disable_after.';
--! EndIncluded 6_maintain/disable_failing.sql
--! Included 6_maintain/maintain.sql
-- One round of upkeep. With nothing to do it costs almost nothing.
--
-- Called by  the task webhook_maintain, once a minute until nothing is left to do; psql.
-- Locks      one advisory lock, so that rounds do not meet; a second one does nothing. No
--            row of an application's is waited for: what it holds is left to the next round.
-- Returns    what was done and to how many.

create or replace function webhookpub.maintain ()
  returns table (
    task text,
    affected bigint
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_settings webhookpub.settings;
  v_expired record;
  v_changed boolean;
begin
  if not pg_try_advisory_xact_lock(2003006834, 1) then
    return;
  end if;
  select s.* into v_settings from webhookpub.settings as s;
  perform webhookpub.wake();

  return query values
    ('disable_failing', webhookpub.disable_failing(v_now)),
    ('cancel_deleted', webhookpub.cancel_deleted()),
    ('delete_failed_jobs', webhookpub.delete_failed_jobs(v_now));

  task := 'expire_secrets';
  delete from webhookpub.secrets as s
  where s.id = any (array(
    select x.id from webhookpub.secrets as x where x.expires_at <= v_now for update skip locked
  ));
  get diagnostics affected = row_count;
  return next;

  v_expired := webhookpub.delete_expired(5000, v_now);
  return query values
    ('delete_events', v_expired.events),
    ('delete_deliveries', v_expired.deliveries);

  -- The locks of one table only, in one round: with them held, it never waits for another.
  task := 'drop_partitions';
  affected := webhookpub.drop_partitions(
    'webhookpub.envelopes', v_now - v_settings.event_retention
  );
  if affected = 0 then
    affected := webhookpub.drop_partitions(
      'webhookpub.attempts', v_now - v_settings.attempt_retention
    );
  end if;
  v_changed := affected > 0;
  return next;

  task := 'create_partitions';
  affected := 0;
  if not v_changed then
    affected := webhookpub.create_partitions('webhookpub.envelopes');
    if affected = 0 then
      affected := webhookpub.create_partitions('webhookpub.attempts');
    end if;
  end if;
  return next;
end;
$$;

comment on function webhookpub.maintain () is
  'One round of upkeep: wakes what is due, disables failing webhooks, removes what has expired, keeps the partitions. Returns what it did.';
--! EndIncluded 6_maintain/maintain.sql
--! Included 0_roles/grant_functions.sql
-- Says which role may call which function.
--
-- Called by  webhookpub.install_roles.
--
-- A function that stands here for nobody is called by other functions only.

create or replace function webhookpub.grant_functions ()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  grant usage on schema webhookpub to
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;
  revoke all on all functions in schema webhookpub from
    webhookpub_publisher, webhookpub_worker, webhookpub_operator, webhookpub_readonly,
    webhookpub_tenant;

  grant execute on function
    public.webhook_publish_tx, public.webhook_publish_best_effort_tx, public.webhook_publish,
    -- random_hex is what random_event_id is made of.
    webhookpub.random_event_id, webhookpub.random_hex
  to webhookpub_publisher;

  grant execute on function
    webhookpub.closed_networks,
    webhookpub.wake, webhookpub.enter_fan_out, webhookpub.leave_fan_out, webhookpub.fan_out,
    webhookpub.fan_out_batch, webhookpub.lease_deliveries, webhookpub.record_attempts,
    webhookpub.maintain
  to webhookpub_worker;

  -- The secret that create_webhook and rotate_secret make is shown to their caller; no
  -- function shows one that exists.
  grant execute on function
    webhookpub.create_webhook, webhookpub.update_webhook, webhookpub.rotate_secret,
    webhookpub.enable_webhook, webhookpub.disable_webhook, webhookpub.delete_webhook,
    webhookpub.redeliver, webhookpub.redeliver_since, webhookpub.test_webhook,
    webhookpub.retry_publish_failures,
    webhookpub.fan_out, webhookpub.maintain
  to webhookpub_operator;

  -- What explain_event calls runs as its caller, so that it shows what its caller may see.
  grant execute on function
    webhookpub.explain_event, webhookpub.stored_envelope, webhookpub.type_patterns,
    webhookpub.unmatched_clause, webhookpub.data_holds, webhookpub.current_user_id
  to webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.event_id, webhookpub.is_valid_event_type
  to webhookpub_publisher, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;

  grant execute on function webhookpub.version
  to webhookpub_worker, webhookpub_operator, webhookpub_readonly, webhookpub_tenant;
end;
$$;

comment on function webhookpub.grant_functions () is
  'Gives each role webhookpub_* the functions that it may call, and no others.';
--! EndIncluded 0_roles/grant_functions.sql

revoke execute on function
  webhookpub.cancel_deliveries (text[]),
  webhookpub.record_attempts
    (text[], integer[], timestamptz[], integer[], text[], integer[], text[], text[], text[])
  from public;
select webhookpub.install_roles();
