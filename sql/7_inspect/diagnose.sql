-- What is wrong, and what to do about it; nothing, when all is well.
--
-- Called by  webhookpub doctor; psql; monitoring.
-- Returns    a row for each finding: topic, finding, and advice, mostly SQL.

create or replace function webhookpub.diagnose ()
  returns table (topic text, finding text, advice text)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select s.topic, s.finding, s.advice
  from webhookpub.diagnose_server() as s
  union all
  select w.topic, w.finding, w.advice
  from webhookpub.diagnose_work() as w
  union all
  select 'privileges', format('%s: %s on %s, from %s', p.who, p.privilege, p.object, p.origin), p.statement
  from webhookpub.check_privileges() as p;
$$;

comment on function webhookpub.diagnose () is
  'What is wrong, one finding a row, each with what to do about it. webhookpub doctor shows it.';
