-- Reads the sessions of this database as its owner sees them: PostgreSQL shows a role no more
-- than the names of others' sessions. What they say is not read: data may be in it.
--
-- Called by  the view webhookpub.sessions.

create or replace function webhookpub.read_sessions ()
  returns table (
    pid integer,
    role_name name,
    application_name text,
    client_addr inet,
    connected_at timestamptz,
    transaction_began_at timestamptz,
    state text,
    waits_for integer[]
  )
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select
    a.pid,
    a.usename,
    a.application_name,
    a.client_addr,
    a.backend_start,
    a.xact_start,
    a.state,
    -- Looking it up stops the lock manager for an instant: only where there is something to find.
    case when a.wait_event_type = 'Lock' then pg_blocking_pids(a.pid) end
  from pg_stat_activity as a
  where a.datname = current_database();
$$;

comment on function webhookpub.read_sessions () is
  'The rows of webhookpub.sessions, for those to whom PostgreSQL shows no others'' sessions.';
