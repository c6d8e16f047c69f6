# Publishes through the gem pg.
#
#   DATABASE_URL=postgres://… ruby publish.rb

require "json"
require "pg"

CUSTOMER_ID = 42
NOTE = 'Grüße, "you" \\ 😀'

# Makes an order; its id comes as text.
def order(connection)
  connection.exec_params(
    "insert into orders (customer_id, note) values ($1, $2) returning id", [CUSTOMER_ID, NOTE]
  ).getvalue(0, 0)
end

# Tells that an order is paid; returns the event's id.
def publish(connection, order_id)
  data = {
    order_id: order_id,
    amount: 1250,
    note: NOTE,
    items: [{ sku: "A-1", count: 2 }]
  }
  labels = ["vip", 'two words, "quoted"']
  # Parameters go as text: JSON once, and an array as PostgreSQL writes it.
  connection.exec_params(
    "select webhook_publish_tx($1, $2, $3, labels => $4, message_id => $5)",
    [
      "order.paid", CUSTOMER_ID, JSON.generate(data),
      PG::TextEncoder::Array.new.encode(labels), order_id
    ]
  ).getvalue(0, 0)
end

connection = PG.connect(ENV.fetch("DATABASE_URL"))

order_id, event_id = connection.transaction do
  id = order(connection)
  [id, publish(connection, id)]
end
puts "published #{event_id}"

# The same message again: nothing is written, and the id is the same.
puts "again #{publish(connection, order_id)}"

# Rolled back, there is no order and no event.
class Back < StandardError; end

begin
  connection.transaction do
    puts "rolled back #{publish(connection, order(connection))}"
    raise Back
  end
rescue Back
  # As it should be.
end
