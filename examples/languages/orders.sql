-- What the publishers find in their database: a table of the application, and its event type.

create table orders (
  id uuid primary key default gen_random_uuid(),
  customer_id bigint not null,
  note text not null
);

insert into webhookpub.event_types (name, description)
values ('order.paid', 'An order was paid.');
