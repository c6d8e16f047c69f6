-- The partitions of envelopes and attempts: what there is of each, and whether upkeep runs.
--
-- Called by  psql.

create or replace view webhookpub.partitions
  with (security_invoker = true)
as
  select p.table_name, p.partition_name, p.first_day, p.last_day, p.bytes, p.has_strays
  from webhookpub.read_partitions() as p;

comment on view webhookpub.partitions is
  'The partitions of envelopes and attempts: of which days, how large, and whether DEFAULT has rows.';
comment on column webhookpub.partitions.table_name is 'envelopes or attempts.';
comment on column webhookpub.partitions.partition_name is 'Its name.';
comment on column webhookpub.partitions.first_day is 'The first day (UTC) in it; null: it is DEFAULT.';
comment on column webhookpub.partitions.last_day is 'The last.';
comment on column webhookpub.partitions.bytes is 'What it takes, with its indexes.';
comment on column webhookpub.partitions.has_strays is
  'Of DEFAULT: whether it has rows, for which upkeep had made no partition; else null.';
