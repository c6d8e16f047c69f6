-- What the receivers find in a database of their own.

-- Each event once, however often it comes: the key is the event's id.
create table inbox (
  event_id text primary key,
  body jsonb not null,
  received_at timestamptz not null default clock_timestamp(),
  handled_at timestamptz
);

create index inbox_waits on inbox (received_at) where handled_at is null;

-- The work: a receipt for each order that was paid.
create table receipts (
  order_id uuid not null,
  data jsonb not null
);
