-- Publishing from triggers: once before an irreversible side effect, once after one.
--
-- The example is an application that sends emails: a row of `emails` waits for approval,
-- a mailer sends it and then writes down that it is sent.

create table emails (
  id text primary key,
  user_id text not null,
  subject text not null,
  status text not null default 'pending_approval',
  constraint emails_status_is_known
    check (status in ('pending_approval', 'approved', 'rejected', 'sent'))
);

-- Before: nothing has left the house yet. If the event can't be published, the status
-- must not change either: webhook_publish_tx raises, and the transaction rolls back.
--
-- In PL/pgSQL the call is `perform`. message_id and the event type make the event's id:
-- an update that is repeated publishes nothing twice.
create function tg_emails__publish_decision ()
  returns trigger
  language plpgsql
as $$
begin
  perform webhook_publish_tx(
    'email.' || new.status,
    new.user_id,
    jsonb_build_object('email_id', new.id, 'subject', new.subject),
    message_id => new.id
  );
  return null;
end;
$$;

create trigger emails__publish_decision
  after insert or update of status on emails
  for each row
  when (new.status <> 'sent')
  execute function tg_emails__publish_decision();

-- After: the mailer has sent it, and nothing takes that back. The row must say so whatever
-- becomes of the event: webhook_publish_best_effort_tx never raises. What it could not
-- publish stands in webhookpub.publish_failures.
create function tg_emails__publish_sent ()
  returns trigger
  language plpgsql
as $$
begin
  perform webhook_publish_best_effort_tx(
    'email.sent',
    new.user_id,
    jsonb_build_object('email_id', new.id, 'subject', new.subject),
    message_id => new.id
  );
  return null;
end;
$$;

create trigger emails__publish_sent
  after update of status on emails
  for each row
  when (new.status = 'sent')
  execute function tg_emails__publish_sent();
