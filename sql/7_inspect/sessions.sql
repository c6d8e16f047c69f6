-- Who is connected to this database, workers and all others.
--
-- Called by  psql.

create or replace view webhookpub.sessions
  with (security_invoker = true)
as
  select
    s.pid, s.role_name, s.application_name, s.client_addr, s.connected_at,
    s.transaction_began_at, s.state, s.waits_for
  from webhookpub.read_sessions() as s;

comment on view webhookpub.sessions is
  'Who is connected to this database and who waits for whom, as far as webhookpub''s owner may see it.';
comment on column webhookpub.sessions.pid is 'Its process, for pg_terminate_backend.';
comment on column webhookpub.sessions.role_name is 'Who it logged in as.';
comment on column webhookpub.sessions.application_name is
  'webhookpub and webhookpub-jobs are a worker''s.';
comment on column webhookpub.sessions.client_addr is
  'From where; null: through a socket, or the owner may not see it.';
comment on column webhookpub.sessions.connected_at is 'Since when.';
comment on column webhookpub.sessions.transaction_began_at is
  'Since when it has a transaction open; null: it has none.';
comment on column webhookpub.sessions.state is 'active, idle, idle in transaction and so on.';
comment on column webhookpub.sessions.waits_for is
  'The processes that hold the lock that it waits for; null: it waits for none.';
