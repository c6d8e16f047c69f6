-- An application of its own: a table of messages whose trigger publishes an event for
-- each new one, in the transaction that inserts it. Nothing here is part of webhookpub.

create table messages (
  id text primary key,
  tenant_id text not null,
  direction text not null,
  agent_id text,
  labels text[] not null default '{}',
  amount integer not null,
  constraint messages_direction_is_known check (direction in ('received', 'sent'))
);

create function tg_messages__publish ()
  returns trigger
  language plpgsql
as $$
begin
  perform webhook_publish_tx(
    'email.' || new.direction,
    new.tenant_id,
    jsonb_build_object('message_id', new.id, 'amount', new.amount),
    agent_id => new.agent_id,
    labels => new.labels,
    message_id => new.id
  );
  return null;
end;
$$;

create trigger messages__publish
  after insert on messages
  for each row execute function tg_messages__publish();
