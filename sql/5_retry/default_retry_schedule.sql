-- The pauses of a webhook that has no schedule of its own.
--
-- Called by  webhookpub.create_webhook.

create or replace function webhookpub.default_retry_schedule ()
  returns interval[]
  language sql
  immutable
  parallel safe
return array[
  '1 minute', '5 minutes', '15 minutes', '1 hour', '4 hours', '8 hours', '16 hours'
]::interval[];

comment on function webhookpub.default_retry_schedule () is
  'Seven pauses: 8 attempts over 29 h 21 min.';
