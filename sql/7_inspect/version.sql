-- The version of this schema: that of the package that installed it.
--
-- Called by  workers, when they start.

create or replace function webhookpub.version ()
  returns text
  language sql
  immutable
  parallel safe
return '0.1.0';

comment on function webhookpub.version () is 'The version of webhookpub in this database.';
