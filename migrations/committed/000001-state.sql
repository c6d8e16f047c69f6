--! Previous: -
--! Hash: sha1:51f92f704a0af96f6dbb17d7824c38c5e0fabdbc
--! Message: state

-- The state: schema, tables, constraints, indexes. Behaviour lives in sql/ and is
-- included by the next migration.

create extension if not exists pgcrypto;

create schema webhookpub;
comment on schema webhookpub is
  'Webhooks that commit with your data: events, webhooks, deliveries and attempts.';

--! Included 1_publish/random_hex.sql
-- Makes an unguessable id: 16 random bytes as 32 hex digits.
--
-- Called by  everything that makes ids.
--
-- A body in the SQL standard's form is parsed once, here: it holds pgcrypto's function
-- itself, wherever the extension lives, and no search_path can change that.

select set_config('search_path', (
  select format('pg_catalog, %s', e.extnamespace::regnamespace)
  from pg_catalog.pg_extension as e
  where e.extname = 'pgcrypto'
), true);

create or replace function webhookpub.random_hex ()
  returns text
  language sql
  volatile
  parallel safe
return encode(gen_random_bytes(16), 'hex');

comment on function webhookpub.random_hex () is '32 random hex digits.';
--! EndIncluded 1_publish/random_hex.sql
--! Included 2_fan_out/filter_values.sql
-- Unpacks one list of a webhook's filters; an absent, null or empty one is no constraint.
--
-- Called by  the generated columns of webhookpub.webhooks.
-- Returns    the values, or null for no constraint.

create or replace function webhookpub.filter_values (
  p_filters jsonb,
  p_key text
)
  returns text[]
  language sql
  immutable
  parallel safe
return (
  select nullif(array_agg(v.value), '{}')
  from jsonb_array_elements_text(
    case jsonb_typeof(p_filters -> p_key)
      when 'array' then p_filters -> p_key
      else '[]'
    end
  ) as v (value)
);

comment on function webhookpub.filter_values (jsonb, text) is
  'The values that a filter list allows; null when it is no constraint.';
--! EndIncluded 2_fan_out/filter_values.sql

-- Migrations -------------------------------------------------------------------------

create table webhookpub.migrations (
  name text collate "C",
  hash text collate "C" not null,
  applied_at timestamptz not null default now(),
  constraint migrations_pkey primary key (name)
);
comment on table webhookpub.migrations is
  'Which of webhookpub''s migrations have run here, whoever ran them: each adds itself.';
comment on column webhookpub.migrations.name is 'Its number.';
comment on column webhookpub.migrations.hash is 'SHA-256 of what it does.';
comment on column webhookpub.migrations.applied_at is 'When it ran.';

-- Settings ---------------------------------------------------------------------------

create table webhookpub.settings (
  one_row boolean primary key default true,
  publish_enabled boolean not null default true,
  notify_enabled boolean not null default true,
  deliver_enabled boolean not null default true,
  allow_http boolean not null default false,
  allowed_networks cidr[] not null default '{}',
  max_payload_bytes integer not null default 262144,
  max_webhooks_per_user integer not null default 100,
  request_timeout interval not null default '15 seconds',
  event_retention interval not null default '30 days',
  delivery_retention interval not null default '90 days',
  attempt_retention interval not null default '30 days',
  auto_disable_after interval not null default '72 hours',
  auto_disable_min_failures integer not null default 10,
  event_types text[] collate "C" not null default '{}',
  constraint settings_have_one_row check (one_row),
  constraint settings_max_payload_bytes_is_up_to_16_mib
    check (max_payload_bytes between 1 and 16777216),
  constraint settings_max_webhooks_per_user_is_positive
    check (max_webhooks_per_user > 0),
  constraint settings_request_timeout_is_up_to_30_s
    check (request_timeout > '0' and request_timeout <= '30 seconds'),
  -- Bounded above, too: there is no time that is ten thousand years before now.
  constraint settings_retention_is_1_hour_to_10_years check (
    event_retention between '1 hour' and '10 years'
    and delivery_retention between '1 hour' and '10 years'
    and attempt_retention between '1 hour' and '10 years'
  ),
  constraint settings_auto_disable_after_is_up_to_10_years
    check (auto_disable_after > '0' and auto_disable_after <= '10 years'),
  constraint settings_auto_disable_min_failures_is_positive
    check (auto_disable_min_failures > 0)
);
insert into webhookpub.settings default values;

comment on table webhookpub.settings is
  'One row. A change counts from the next statement on; event_retention for rows written after it.';
comment on column webhookpub.settings.one_row is 'Always true: it holds the table to one row.';
comment on column webhookpub.settings.publish_enabled is
  'Kill switch: when false, publishing writes nothing and returns null; pending deliveries go on.';
comment on column webhookpub.settings.notify_enabled is
  'Whether a publisher wakes a sleeping fan-out by NOTIFY, which a prepared transaction may not hold; else the tick finds its event within about a second.';
comment on column webhookpub.settings.deliver_enabled is
  'When false nothing is sent, and what is pending waits: for a copy of a database, or an emergency.';
comment on column webhookpub.settings.allow_http is 'Permit http:// URLs and port 80.';
comment on column webhookpub.settings.allowed_networks is
  'Networks that are reachable although they are not public, on any port.';
comment on column webhookpub.settings.max_payload_bytes is
  'Upper bound of an envelope together with the other arguments of its event, in bytes.';
comment on column webhookpub.settings.max_webhooks_per_user is
  'How many webhooks one user may have that are not deleted.';
comment on column webhookpub.settings.request_timeout is
  'Deadline of a whole HTTP exchange, for webhooks without one of their own.';
comment on column webhookpub.settings.event_retention is 'How long events and envelopes are kept.';
comment on column webhookpub.settings.delivery_retention is 'How long ended deliveries are kept.';
comment on column webhookpub.settings.attempt_retention is 'How long attempts are kept.';
comment on column webhookpub.settings.auto_disable_after is
  'A webhook that only failed for this long is disabled.';
comment on column webhookpub.settings.auto_disable_min_failures is
  'And not before this many failed attempts.';
comment on column webhookpub.settings.event_types is
  'The names in webhookpub.event_types, kept by its trigger, so that publishing reads one row.';

-- Event catalog ----------------------------------------------------------------------

create table webhookpub.event_types (
  name text collate "C" primary key,
  description text not null default '',
  schema jsonb,
  created_at timestamptz not null default now(),
  constraint event_types_schema_is_an_object check (jsonb_typeof(schema) = 'object'),
  constraint event_types_name_is_dot_separated_lowercase_words
    check (name ~ '^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)+$' and length(name) <= 100)
);

--! Included 1_publish/tg_event_types__copy_names.sql
-- Copies the names of the catalog to settings: publishing then reads that one row.
--
-- Called by  the trigger event_types_copy_names.
-- Locks      the row of settings, so that of two changes at once the later one sees both.

create or replace function webhookpub.tg_event_types__copy_names ()
  returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform from webhookpub.settings as s for no key update;
  update webhookpub.settings as s
  set event_types = array(select t.name from webhookpub.event_types as t order by t.name);
  return null;
end;
$$;

comment on function webhookpub.tg_event_types__copy_names () is
  'Keeps settings.event_types equal to the names in webhookpub.event_types.';
--! EndIncluded 1_publish/tg_event_types__copy_names.sql

create trigger event_types_copy_names
  after insert or update or delete or truncate on webhookpub.event_types
  for each statement execute function webhookpub.tg_event_types__copy_names();
-- Also in a session whose session_replication_role is replica: a type that is not copied can
-- not be published.
alter table webhookpub.event_types enable always trigger event_types_copy_names;
comment on trigger event_types_copy_names on webhookpub.event_types is
  'Keeps settings.event_types.';
insert into webhookpub.event_types (name, description)
values
  ('email.received', 'An email arrived.'),
  ('email.sent', 'An email was sent.'),
  ('email.pending_approval', 'An email waits for approval.'),
  ('email.approved', 'An email was approved.'),
  ('email.rejected', 'An email was rejected.'),
  ('webhook.disabled', 'A webhook was disabled by the system; its user should know.'),
  ('webhook.delivery_failed', 'A delivery ended without success.');

comment on table webhookpub.event_types is
  'The event types that may be published. A host adds its own by INSERT.';
comment on column webhookpub.event_types.name is
  'Dot-separated lowercase words, for example email.received.';
comment on column webhookpub.event_types.schema is
  'JSON Schema of its data, for those who read the catalog; null when nobody has said. Publishing does not check it.';
comment on column webhookpub.event_types.description is 'What has happened, in a sentence.';
comment on column webhookpub.event_types.schema is
  'The JSON Schema of the payload, for people and their tools: publishing does not look at it.';

-- Webhooks ---------------------------------------------------------------------------

create table webhookpub.webhooks (
  id text collate "C" primary key,
  user_id text collate "C" not null,
  url text collate "C" not null,
  description text not null default '',
  events text[] collate "C" not null,
  filters jsonb not null default '{}',
  headers jsonb not null default '{}',
  signature_scheme text collate "C" not null default 'standard',
  enabled boolean not null default true,
  disabled_at timestamptz,
  disabled_reason text collate "C",
  max_in_flight integer not null default 20,
  max_per_second numeric,
  ordered boolean not null default false,
  request_timeout interval,
  retry_schedule interval[] not null,
  created_at timestamptz not null default now(),
  last_delivered_at timestamptz,
  failing_since timestamptz,
  failures integer not null default 0,
  deleted_at timestamptz,
  -- What matching reads: the filters, unpacked once, when the webhook is written.
  filter_agent_ids text[] collate "C" generated always as
    (webhookpub.filter_values(filters, 'agent_ids')) stored,
  filter_conversation_ids text[] collate "C" generated always as
    (webhookpub.filter_values(filters, 'conversation_ids')) stored,
  filter_labels text[] collate "C" generated always as
    (webhookpub.filter_values(filters, 'labels')) stored,
  filter_data jsonpath generated always as ((filters ->> 'data')::jsonpath) stored,
  unanswered integer not null default 0,
  circuit_opened_at timestamptz,
  circuit_retry_at timestamptz,
  paused_until timestamptz,
  constraint webhooks_signature_scheme_is_known
    check (signature_scheme in ('standard', 'stripe')),
  constraint webhooks_max_in_flight_is_1_to_1000 check (max_in_flight between 1 and 1000),
  constraint webhooks_max_per_second_is_up_to_10000
    check (max_per_second >= 0.001 and max_per_second <= 10000),
  constraint webhooks_request_timeout_is_up_to_30_s
    check (request_timeout > '0' and request_timeout <= '30 seconds'),
  constraint webhooks_disabled_iff_not_enabled
    check (enabled = (disabled_at is null) and enabled = (disabled_reason is null)),
  constraint webhooks_deleted_are_disabled check (deleted_at is null or not enabled),
  constraint webhooks_circuit_is_tried_iff_open
    check ((circuit_opened_at is null) = (circuit_retry_at is null))
) with (fillfactor = 80);
create index webhooks_by_user on webhookpub.webhooks (user_id);
-- Of most users nobody looks into the data: then nobody parses it.
create index webhooks_reading on webhookpub.webhooks (user_id)
  where enabled and filter_data is not null;
create index webhooks_deleted on webhookpub.webhooks (deleted_at) where deleted_at is not null;
-- Who is left alone, until when; whoever is disabled waits for no time.
create index webhooks_resuming
  on webhookpub.webhooks ((greatest(circuit_retry_at, paused_until)))
  where enabled and greatest(circuit_retry_at, paused_until) is not null;

--! Included 4_record/tg_webhooks__tell.sql
-- Tells the session that changes it when a webhook goes on, off, or is left alone.
--
-- Called by  the trigger webhooks_tell.
--
-- Whatever the reason was: a worker puts it into its log, and psql shows it to an operator.

create or replace function webhookpub.tg_webhooks__tell ()
  returns trigger
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_event text;
begin
  foreach v_event in array array_remove(array[
    case when new.enabled <> old.enabled
      then case when new.enabled then 'webhook_enabled' else 'webhook_disabled' end
    end,
    case when (new.circuit_opened_at is null) <> (old.circuit_opened_at is null)
      then case when new.circuit_opened_at is null then 'circuit_closed' else 'circuit_opened' end
    end
  ], null) loop
    raise notice using
      message = format(
        '%s: %s%s', replace(v_event, '_', ' '), new.id,
        case v_event when 'webhook_disabled' then ': ' || new.disabled_reason end
      ),
      detail = jsonb_strip_nulls(jsonb_build_object(
        'event', v_event,
        'webhook_id', new.id,
        'reason', case v_event when 'webhook_disabled' then new.disabled_reason end
      ));
  end loop;
  return null;
end;
$$;

comment on function webhookpub.tg_webhooks__tell () is
  'Tells the session that changes it when a webhook is enabled, disabled, left alone or not any more.';
--! EndIncluded 4_record/tg_webhooks__tell.sql

create trigger webhooks_tell
  after update on webhookpub.webhooks
  for each row
  when (
    new.enabled <> old.enabled
    or (new.circuit_opened_at is null) <> (old.circuit_opened_at is null)
  )
  execute function webhookpub.tg_webhooks__tell();
comment on trigger webhooks_tell on webhookpub.webhooks is
  'Tells the session that changes it when a webhook goes on, off, or is left alone.';

comment on table webhookpub.webhooks is
  'What users want to be sent, and where. Written by create_webhook and its kin, never by hand.';
comment on column webhookpub.webhooks.user_id is 'The tenant: only its events can match.';
comment on column webhookpub.webhooks.url is 'Where deliveries are POSTed.';
comment on column webhookpub.webhooks.events is
  'What it listens to: exact types, prefixes such as email.*, or *.';
comment on column webhookpub.webhooks.filters is
  'agent_ids, conversation_ids, labels: lists; data: a jsonpath predicate. All must hold.';
comment on column webhookpub.webhooks.headers is 'Custom request headers: names to strings.';
comment on column webhookpub.webhooks.signature_scheme is
  'standard (Standard Webhooks) or stripe (x-webhook-signature).';
comment on column webhookpub.webhooks.disabled_reason is
  'manual, failing, gone, deleted or what the operator gave.';
comment on column webhookpub.webhooks.max_in_flight is
  'How many of its requests may be under way at once, over all workers.';
comment on column webhookpub.webhooks.max_per_second is
  'How many requests a second it gets at most, evenly, over all workers; null: as many as it answers.';
comment on column webhookpub.webhooks.ordered is
  'Its deliveries with the same ordering key go one after another, in the order of their events.';
comment on column webhookpub.webhooks.request_timeout is
  'Deadline of a whole exchange; null: settings.request_timeout.';
comment on column webhookpub.webhooks.retry_schedule is
  'Pauses after failed attempts 1, 2, …; attempts = its length + 1.';
comment on column webhookpub.webhooks.last_delivered_at is
  'Last success, to about 10 s: it is not written more often, so that it stays a cold row.';
comment on column webhookpub.webhooks.failing_since is
  'First failed attempt since the last success, as far as it was noticed; null while all is well.';
comment on column webhookpub.webhooks.failures is
  'Failed attempts since the last success, about, counted up to settings.auto_disable_min_failures.';
comment on column webhookpub.webhooks.deleted_at is 'Deleted ones stay as long as their history.';
comment on column webhookpub.webhooks.filter_agent_ids is 'filters.agent_ids, unpacked.';
comment on column webhookpub.webhooks.filter_conversation_ids is
  'filters.conversation_ids, unpacked.';
comment on column webhookpub.webhooks.filter_labels is 'filters.labels, unpacked.';
comment on column webhookpub.webhooks.filter_data is 'filters.data, parsed.';
comment on column webhookpub.webhooks.unanswered is
  'Attempts in a row without an HTTP answer, about; while the circuit is open, only probes count.';
comment on column webhookpub.webhooks.circuit_opened_at is
  'Since when its receiver is left alone because it does not answer; null while it does.';
comment on column webhookpub.webhooks.circuit_retry_at is
  'When the next delivery goes out as a probe; an answer to it closes the circuit.';
comment on column webhookpub.webhooks.paused_until is
  'Until when its receiver asked to be left alone (Retry-After); what waits comes back one at a time, and one more with each second.';

-- Apart, for it changes with each lease, and only of those that have a pace.
create table webhookpub.paces (
  webhook_id text collate "C" constraint paces_pkey primary key,
  spent_until timestamptz not null
) with (fillfactor = 50);
comment on table webhookpub.paces is
  'How much of their pace webhooks with max_per_second have used.';
comment on column webhookpub.paces.spent_until is
  'When the requests that were leased would all have begun, evenly spaced: ahead of now by a burst at most.';

create table webhookpub.secrets (
  id bigint generated always as identity primary key,
  webhook_id text collate "C" not null,
  secret text collate "C" not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz
);
-- No samples of them in the planner's statistics, which newer versions of pg_dump take along.
alter table webhookpub.secrets alter column secret set statistics 0;
create unique index secrets_one_current_per_webhook
  on webhookpub.secrets (webhook_id) where expires_at is null;
create index secrets_by_webhook on webhookpub.secrets (webhook_id);

comment on table webhookpub.secrets is
  'The signing secrets, and their only place. Nobody but the signing functions reads it.';
comment on column webhookpub.secrets.expires_at is
  'Null: the current one. Else the end of its grace period after a rotation.';

-- Events and envelopes ---------------------------------------------------------------

-- The bytes are published with the row and moved to the partitioned envelopes by the
-- fan-out: one insert, not two, and half of what publishing costs beyond it.
-- A type and one full index instead of checks and partial indexes, whose expressions PostgreSQL
-- would prepare anew for each statement.
create type webhookpub.event_status as enum ('pending', 'processed', 'no_match');
comment on type webhookpub.event_status is
  'pending until fan-out; then processed (deliveries exist) or no_match.';

create table webhookpub.events (
  id text collate "C" primary key,
  user_id text collate "C" not null,
  type text collate "C" not null,
  agent_id text collate "C",
  conversation_id text collate "C",
  labels text[] collate "C" not null default '{}',
  message_id text collate "C",
  ordering_key text collate "C",
  envelope text,
  status webhookpub.event_status not null default 'pending',
  pending_user_id text collate "C",
  matched_webhook_ids text[] collate "C",
  attempts integer not null default 0,
  last_error text,
  retry_at timestamptz,
  processed_at timestamptz,
  created_at timestamptz not null,
  expires_at timestamptz not null
) with (
  -- Room on the page for what fan-out makes of a row, so that only what differs is logged.
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.1,
  autovacuum_analyze_scale_factor = 0.05
);
-- By it a fan-out goes from one user with pending events to the next; upkeep goes by time, for
-- what is not pending has no user in it.
create index events_by_status on webhookpub.events (status, pending_user_id, expires_at);
-- For whom row-level security counts, the planner may not look into the statistics of an
-- enum, and takes every status for as frequent as any other. Few events are pending.
alter table webhookpub.events alter column status set (n_distinct = 1000);

comment on table webhookpub.events is
  'What was published. The primary key is the idempotency key.';
comment on column webhookpub.events.envelope is
  'Its bytes, until fan-out moves them to webhookpub.envelopes.';
comment on column webhookpub.events.ordering_key is
  'What it is about: ordered webhooks get events of one key one after the other. Null: no order.';
comment on column webhookpub.events.id is
  'evt_ and 32 hex digits, or what the publisher gave. Of one that nothing identifies they begin with its time.';
comment on column webhookpub.events.pending_user_id is
  'Its user, while it is pending; behind chr(1) when it is heavy or has failed: then it goes alone, in a lane of its own.';
comment on column webhookpub.events.status is
  'pending until fan-out; then processed (deliveries exist) or no_match.';
comment on column webhookpub.events.matched_webhook_ids is
  'The match decision of the fan-out; replays go by it.';
comment on column webhookpub.events.attempts is 'How often its fan-out was tried.';
comment on column webhookpub.events.last_error is 'Why its last fan-out failed.';
comment on column webhookpub.events.retry_at is
  'When fan-out tries it again after a failure; null: at once.';
comment on column webhookpub.events.expires_at is
  'When upkeep may remove it, unless it is pending.';

create table webhookpub.envelopes (
  event_id text collate "C" not null,
  created_at timestamptz not null,
  user_id text collate "C" not null,
  body text not null,
  constraint envelopes_pkey primary key (event_id, created_at)
) partition by range (created_at);
create index envelopes_by_user on webhookpub.envelopes (user_id, created_at);
create index envelopes_by_created_at on webhookpub.envelopes (created_at);
create table webhookpub.envelopes_default partition of webhookpub.envelopes default;

comment on table webhookpub.envelopes is
  'The bytes on the wire, one row an event, written once and partitioned by day (UTC).';
comment on column webhookpub.envelopes.body is
  'The JSON text that is POSTed and signed, the same for every attempt and replay.';
comment on table webhookpub.envelopes_default is
  'A safety net: it stays empty while upkeep runs.';

-- Deliveries and attempts ------------------------------------------------------------

-- What was sent where, apart from what is still to be done. The history is written once when
-- a delivery is made and once when it ends, on the same page: so no index mentions a column
-- that changes, and pages keep room for the second version. What happens in between happens in
-- the queue, which is as small as what is pending.
create table webhookpub.delivery_history (
  -- Times first, where they need no padding.
  event_created_at timestamptz not null,
  created_at timestamptz not null,
  id text collate "C" constraint delivery_history_pkey primary key,
  webhook_id text collate "C" not null,
  event_id text collate "C" not null,
  event_type text collate "C" not null,
  message_id text collate "C",
  replay_id text collate "C",
  max_attempts integer not null,
  -- From here on it changes: what comes before is then not written to the log again.
  attempts integer not null default 0,
  lost integer not null default 0,
  status text collate "C" not null default 'pending',
  last_attempt_at timestamptz,
  delivered_at timestamptz,
  last_status_code integer,
  last_error text,
  constraint delivery_history_status_is_known
    check (status in ('pending', 'delivered', 'failed', 'cancelled')),
  constraint delivery_history_delivered_iff_status
    check ((status = 'delivered') = (delivered_at is not null))
) with (
  fillfactor = 60,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.1,
  autovacuum_analyze_scale_factor = 0.05
);
-- What one webhook got, in the order of time.
create index delivery_history_by_webhook on webhookpub.delivery_history (webhook_id, id);
-- Where an event went: the question that is asked most.
create index delivery_history_by_event on webhookpub.delivery_history (event_id);

comment on table webhookpub.delivery_history is
  'Every delivery: what and for whom, and how it ended. Read it through webhookpub.deliveries.';
comment on column webhookpub.delivery_history.id is
  'whd_ and hex digits. Of a first delivery: its event''s time, a hash of its event, its webhook; so that there can be only one (webhookpub.first_delivery_prefix).';
comment on column webhookpub.delivery_history.event_created_at is
  'The partition key of its envelope.';
comment on column webhookpub.delivery_history.replay_id is
  'Null for the first delivery; rpl_… names the call that replayed it, test_… a test.';
comment on column webhookpub.delivery_history.status is
  'pending while it is in the queue; then delivered, failed (no attempt left, or gone) or cancelled (webhook deleted).';
comment on column webhookpub.delivery_history.attempts is
  'How many were begun until it ended; 0 while it is pending.';
comment on column webhookpub.delivery_history.lost is 'How many of them had no answer.';

create table webhookpub.queue (
  delivery_id text collate "C" constraint queue_pkey primary key,
  webhook_id text collate "C" not null,
  due_at timestamptz not null,
  leased boolean not null default false,
  attempt integer not null default 0,
  lost integer not null default 0,
  suspicion integer not null default 0,
  replay_of text collate "C",
  ordering_key text collate "C",
  turn_at timestamptz,
  last_attempt_at timestamptz,
  last_status_code integer,
  last_error text
) with (
  -- Room on the page for what a lease makes of a row, so that only what differs is logged.
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.1,
  autovacuum_analyze_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 0
);
create index queue_by_webhook on webhookpub.queue (webhook_id, leased, due_at);
-- For whoever looks at all that is due, and says "attempt >= 0" to get it: a lease must never be
-- led here by stale statistics, for it would read what is due for everybody.
create index queue_due on webhookpub.queue (due_at, webhook_id) where attempt >= 0;
create unique index queue_one_replay_per_event_and_webhook
  on webhookpub.queue (replay_of, webhook_id) where replay_of is not null;
-- Of one ordering key one goes at a time, whatever else happens.
create unique index queue_one_turn_per_ordering
  on webhookpub.queue (webhook_id, ordering_key) where ordering_key is not null and turn_at is null;
create index queue_turns
  on webhookpub.queue (webhook_id, ordering_key, turn_at, delivery_id) where turn_at is not null;
create index queue_suspects
  on webhookpub.queue (due_at, suspicion) where leased and suspicion > 0;

comment on table webhookpub.queue is
  'The deliveries that are pending: when each is due and who has it. Its row goes when the delivery ends.';
comment on column webhookpub.queue.due_at is
  'Schedule and lease in one: due when it has passed; infinity while it waits for its turn.';
comment on column webhookpub.queue.leased is
  'A worker has it until due_at; then it is due again.';
comment on column webhookpub.queue.attempt is
  'Attempts begun; the number of the last one, by which its answer is fenced.';
comment on column webhookpub.queue.lost is
  'Attempts that had no answer, for the worker was lost or gave it back; they do not count against max_attempts.';
comment on column webhookpub.queue.suspicion is
  'How close it is to having killed a worker: 0 not at all; 1 one was lost with it; 2 another, of few; 3 another, with none of its like beside it (due_suspects). An answer ends it.';
comment on column webhookpub.queue.ordering_key is
  'Of a delivery of an ordered webhook: it goes when those before it with the same key have ended.';
comment on column webhookpub.queue.turn_at is
  'While it waits for its turn: its event''s time, for turns go by that. Null when it is its turn, or needs none.';
comment on column webhookpub.queue.replay_of is
  'The event that it replays, so that one replay of it is pending for a webhook; else null.';

-- What record_attempts knows of an answer, from one of its steps to the next.
create type webhookpub.answer as (
  place integer,
  delivery_id text,
  attempt integer,
  started_at timestamptz,
  duration_ms integer,
  outcome text,
  status_code integer,
  error text,
  webhook_id text,
  history_at tid,
  queue_at tid,
  verdict text,
  attempts integer,
  lost integer,
  last_attempt_at timestamptz,
  due_at timestamptz,
  pause interval,
  suspected boolean,
  ordering_key text
);
comment on type webhookpub.answer is
  'An answer, its place among those that were told at once, whose it is, and what it means: delivered, failed, pending (there is a next attempt), late (it changes nothing) or held (somebody holds the delivery).';

-- A counter that nobody waits for, and that does not go back when partitions are dropped.
create sequence webhookpub.attempts_recorded;
comment on sequence webhookpub.attempts_recorded is
  'How many attempts were ever recorded.';

create table webhookpub.attempts (
  delivery_id text collate "C" not null,
  attempt integer not null,
  started_at timestamptz not null,
  duration_ms integer not null,
  outcome text collate "C" not null,
  status_code integer,
  error text,
  response_body text,
  webhook_id text collate "C" not null,
  number bigint default nextval('webhookpub.attempts_recorded'),
  constraint attempts_pkey primary key (delivery_id, attempt, started_at),
  constraint attempts_outcome_is_known
    check (outcome in ('responded', 'timed_out', 'refused', 'blocked')),
  constraint attempts_status_code_iff_responded
    check ((outcome = 'responded') = (status_code is not null))
) partition by range (started_at);
create index attempts_by_webhook on webhookpub.attempts (webhook_id, started_at);
create table webhookpub.attempts_default partition of webhookpub.attempts default;

comment on table webhookpub.attempts is
  'Every HTTP request that was made, partitioned by day (UTC).';
comment on column webhookpub.attempts.attempt is 'Its number within the delivery, from 1.';
comment on column webhookpub.attempts.started_at is 'When it was leased, by the database''s clock.';
comment on column webhookpub.attempts.duration_ms is 'Whole exchange, in milliseconds.';
comment on column webhookpub.attempts.outcome is
  'responded (status_code says how), timed_out, refused (no connection, or it broke) or blocked (address not allowed).';
comment on column webhookpub.attempts.error is 'What went wrong, for people; null after a 2xx.';
comment on column webhookpub.attempts.response_body is 'The first 4 KiB, as text.';
comment on column webhookpub.attempts.number is
  'Counts all attempts, in the order of their recording; null for those of before the counter.';
comment on table webhookpub.attempts_default is
  'A safety net: it stays empty while upkeep runs.';

-- Best effort ------------------------------------------------------------------------

create table webhookpub.publish_failures (
  id bigint generated always as identity primary key,
  event_type text collate "C",
  user_id text collate "C",
  data jsonb,
  agent_id text collate "C",
  conversation_id text collate "C",
  labels text[] collate "C",
  message_id text collate "C",
  dedup_key text collate "C",
  event_id text collate "C",
  ordering_key text collate "C",
  sqlstate text collate "C" not null,
  message text not null,
  created_at timestamptz not null default now(),
  tried_at timestamptz not null default now()
);
-- Whoever was tried longest ago is next, so that what fails for ever holds up nobody.
create index publish_failures_by_tried_at on webhookpub.publish_failures (tried_at, id);

comment on table webhookpub.publish_failures is
  'What webhook_publish_best_effort_tx could not publish: its arguments and the error.';
comment on column webhookpub.publish_failures.ordering_key is 'As it was given.';
comment on column webhookpub.publish_failures.sqlstate is 'SQLSTATE of the error.';
comment on column webhookpub.publish_failures.message is 'Message of the error.';
comment on column webhookpub.publish_failures.tried_at is
  'When it was last tried to publish it.';

-- Wake-ups ---------------------------------------------------------------------------

create sequence webhookpub.notified_at minvalue 0 start 0;
comment on sequence webhookpub.notified_at is
  'When a publisher last decided to NOTIFY, in Unix milliseconds; others see it before its commit.';

create table webhookpub.sweep (
  one_row boolean primary key default true,
  position text collate "C" not null default '',
  next_at timestamptz not null default '-infinity',
  constraint sweep_has_one_row check (one_row)
);
insert into webhookpub.sweep default values;

comment on table webhookpub.sweep is
  'Where the sweep is that looks at all that is due (sweep_webhooks): one row.';
comment on column webhookpub.sweep.one_row is 'Always true: it holds the table to one row.';
comment on column webhookpub.sweep.position is 'The last webhook that it has come to.';
comment on column webhookpub.sweep.next_at is 'When it goes on.';

-- Privileges --------------------------------------------------------------------------

create table webhookpub.settled_objects (
  server bigint,
  class oid,
  object oid,
  constraint settled_objects_pkey primary key (server, class, object)
);
comment on table webhookpub.settled_objects is
  'The objects whose privileges have been brought to order: what is granted on them since is on purpose (settle_privileges).';
comment on column webhookpub.settled_objects.server is
  'The system identifier of the server, which a restore elsewhere does not have.';
comment on column webhookpub.settled_objects.class is 'The catalog that has it.';
comment on column webhookpub.settled_objects.object is 'Its OID, which a restored one does not have.';

create table webhookpub.upkeep (
  one_row boolean primary key default true,
  finished_at timestamptz not null default now() - interval '1 minute',
  constraint upkeep_has_one_row check (one_row)
);
insert into webhookpub.upkeep default values;

comment on table webhookpub.upkeep is
  'When upkeep was done last, by the clock of the database: ticks go by it. One row.';
comment on column webhookpub.upkeep.one_row is 'Always true: it holds the table to one row.';
comment on column webhookpub.upkeep.finished_at is
  'When its last round ended (webhookpub.maintain).';

-- Upkeep -------------------------------------------------------------------------------

create table webhookpub.expiry (
  one_row boolean primary key default true,
  position text collate "C" not null default '',
  restart_at timestamptz not null default '-infinity',
  constraint expiry_has_one_row check (one_row)
);
insert into webhookpub.expiry default values;

comment on table webhookpub.expiry is
  'How far upkeep has come in removing expired deliveries (delete_expired): one row.';
comment on column webhookpub.expiry.one_row is 'Always true: it holds the table to one row.';
comment on column webhookpub.expiry.position is 'The last delivery that it has come to.';
comment on column webhookpub.expiry.restart_at is
  'When it begins anew, for those that were pending when it passed them.';

-- Tenants and row-level security -------------------------------------------------------

create table webhookpub.tenants (
  role_name name primary key,
  user_id text collate "C",
  constraint tenants_user_id_has_1_to_200_characters check (length(user_id) between 1 and 200)
);
comment on table webhookpub.tenants is
  'Which user a role sees as a tenant. A role that is not here sees nothing as one.';
comment on column webhookpub.tenants.role_name is
  'A role, usually one that can log in; it also needs to be a member of webhookpub_tenant.';
comment on column webhookpub.tenants.user_id is
  'Its user. Null: the one that the setting webhookpub.user_id names, for a role whose SQL is all your application''s.';

alter table webhookpub.tenants enable row level security;
alter table webhookpub.webhooks enable row level security;
alter table webhookpub.events enable row level security;
alter table webhookpub.envelopes enable row level security;
alter table webhookpub.delivery_history enable row level security;
alter table webhookpub.queue enable row level security;
alter table webhookpub.attempts enable row level security;
alter table webhookpub.publish_failures enable row level security;
-- No policy: whatever somebody grants on them, and be it by default privileges, only their
-- owner reads them.
alter table webhookpub.secrets enable row level security;
alter table webhookpub.paces enable row level security;
alter table webhookpub.sweep enable row level security;
alter table webhookpub.settled_objects enable row level security;
alter table webhookpub.expiry enable row level security;
alter table webhookpub.migrations enable row level security;
-- A partition would else show the rows of everybody.
alter table webhookpub.envelopes_default enable row level security;
alter table webhookpub.attempts_default enable row level security;

--! Included 9_roles/current_user_id.sql
-- Says which user a tenant's session may see: the one that its role is bound to, or, where
-- the role is trusted to choose, the one that the setting webhookpub.user_id names.
--
-- Called by  the row-level security policies, once a query.
-- Returns    null for a role that is not in webhookpub.tenants: then no row is its own.
--
-- A login role that is bound stays bound whatever role it changes to. The body is parsed
-- once, here, so that no search_path of the session can change what it says.

create or replace function webhookpub.current_user_id ()
  returns text
  language sql
  stable
  parallel safe
return (
  select coalesce(t.user_id, nullif(current_setting('webhookpub.user_id', true), ''))
  from webhookpub.tenants as t
  where t.role_name in (current_user, session_user)
  order by t.user_id is null, t.role_name <> current_user
  limit 1
);

comment on function webhookpub.current_user_id () is
  'The user whose rows this session sees as a tenant; null when it is nobody''s.';
--! EndIncluded 9_roles/current_user_id.sql

-- They count for whoever may read a table and is not its owner.
create policy tenants_of_own_role on webhookpub.tenants
  for select using (role_name in (current_user, session_user));
create policy webhooks_of_own_user on webhookpub.webhooks
  for select using (user_id = (select webhookpub.current_user_id()));
create policy events_of_own_user on webhookpub.events
  for select using (user_id = (select webhookpub.current_user_id()));
create policy envelopes_of_own_user on webhookpub.envelopes
  for select using (user_id = (select webhookpub.current_user_id()));
create policy publish_failures_of_own_user on webhookpub.publish_failures
  for select using (user_id = (select webhookpub.current_user_id()));
-- An array, because an index can look for it.
create policy delivery_history_of_own_user on webhookpub.delivery_history
  for select using (webhook_id = any (array(
    select w.id
    from webhookpub.webhooks as w
    where w.user_id = (select webhookpub.current_user_id())
  )));
create policy queue_of_own_user on webhookpub.queue
  for select using (webhook_id = any (array(
    select w.id
    from webhookpub.webhooks as w
    where w.user_id = (select webhookpub.current_user_id())
  )));
create policy attempts_of_own_user on webhookpub.attempts
  for select using (webhook_id = any (array(
    select w.id
    from webhookpub.webhooks as w
    where w.user_id = (select webhookpub.current_user_id())
  )));
