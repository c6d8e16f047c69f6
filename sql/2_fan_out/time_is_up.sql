-- Says whether a statement has used up its time, when it was cancelled: if not, somebody wants
-- it to end.
--
-- Called by  webhookpub.fan_out, webhookpub.fan_out_batch, webhookpub.fan_out_singly.
-- Returns    whether it has taken this part of statement_timeout; false if that is not set.
--            Not all of it: it counts from the parsing of the statement, and that is not known.

create or replace function webhookpub.time_is_up (
  p_part double precision default 0.8
)
  returns boolean
  language sql
  volatile
return current_setting('statement_timeout') <> '0'
  and clock_timestamp() - statement_timestamp()
    >= current_setting('statement_timeout')::interval * p_part;

comment on function webhookpub.time_is_up (double precision) is
  'Whether this statement has taken as long as statement_timeout lets it, or that part of it.';
