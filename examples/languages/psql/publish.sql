-- Publishes from psql, or any program that pipes SQL into it.
--
--   psql -X -v ON_ERROR_STOP=1 -f publish.sql "$DATABASE_URL"
\set QUIET on
\pset tuples_only on
\pset format unaligned

\set customer_id 42
\set note 'Grüße, "you" \\ 😀'

-- :'note' is quoted as a literal, so nothing in it can end the string. \gset keeps the id.
begin;

insert into orders (customer_id, note)
values (:customer_id, :'note')
returning id as order_id \gset

select webhook_publish_tx(
  'order.paid',
  :'customer_id',
  jsonb_build_object(
    'order_id', :'order_id',
    'amount', 1250,
    'note', :'note',
    'items', jsonb_build_array(jsonb_build_object('sku', 'A-1', 'count', 2))
  ),
  labels => array['vip', 'two words, "quoted"'],
  message_id => :'order_id'
) as event_id \gset

commit;
\echo published :event_id

-- The same message again: nothing is written, and the id is the same.
select webhook_publish_tx('order.paid', :'customer_id', '{}', message_id => :'order_id')
  as event_id \gset
\echo again :event_id

-- Rolled back, there is no order and no event.
begin;

with made as (
  insert into orders (customer_id, note)
  values (:customer_id, :'note')
  returning orders.id, orders.customer_id
)
select webhook_publish_tx(
  'order.paid', made.customer_id::text, '{}', labels => '{vip}', message_id => made.id::text
) as event_id
from made \gset

rollback;
\echo rolled back :event_id
