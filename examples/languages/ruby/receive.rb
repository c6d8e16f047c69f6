# A receiver: verifies, stores, answers; a thread does the work later.
#
#   WEBHOOK_SECRET=whsec_… DATABASE_URL=postgres://… ruby receive.rb
#
# Its database has the tables of inbox.sql. PORT is where it listens; 3000 if it is not set.

require "json"
require "openssl"
require "pg"
require "webrick"

MAX_BYTES = 1024 * 1024
TOLERANCE = 5 * 60

# Whether a request is genuine and at most five minutes old. This is all that a library of
# Standard Webhooks does.
def genuine?(request, body)
  id, timestamp, signatures =
    %w[webhook-id webhook-timestamp webhook-signature].map { |name| request[name].to_s }
  return false unless timestamp.match?(/\A\d{1,12}\z/)
  return false if (Time.now.to_i - timestamp.to_i).abs > TOLERANCE

  # The key is what the secret's base64 says, and the body the bytes as they came.
  key = ENV.fetch("WEBHOOK_SECRET").delete_prefix("whsec_").unpack1("m")
  hash = OpenSSL::HMAC.digest("SHA256", key, "#{id}.#{timestamp}.".b + body)
  # Several, while a secret is rotated. Compared in a time that tells nothing.
  signatures.split(" ").any? do |signature|
    OpenSSL.secure_compare(signature, "v1,#{[hash].pack("m0")}")
  end
end

# Keeps an event; one that was here before changes nothing.
def store(body)
  connection = PG.connect(ENV.fetch("DATABASE_URL"))
  connection.exec_params(
    "insert into inbox (event_id, body) values ($1, $2) on conflict (event_id) do nothing",
    [JSON.parse(body).fetch("id"), body]
  )
ensure
  connection&.close
end

# The work. What it writes commits together with the mark that it is done.
def handle(connection, event)
  return unless event.fetch("event") == "order.paid"

  connection.exec_params(
    "insert into receipts (order_id, data) values ($1, $2)",
    [event.dig("data", "order_id"), JSON.generate(event.fetch("data"))]
  )
end

# Handles the event that has waited longest; false when none waits.
def handle_next(connection)
  connection.transaction do
    row = connection.exec(<<~SQL).first
      select event_id, body
      from inbox
      where handled_at is null
      order by received_at
      limit 1
      for update skip locked
    SQL
    next false unless row

    handle(connection, JSON.parse(row["body"]))
    connection.exec_params(
      "update inbox set handled_at = clock_timestamp() where event_id = $1", [row["event_id"]]
    )
    true
  end
end

# Handles what is stored, for ever.
def work(arrived)
  connection = PG.connect(ENV.fetch("DATABASE_URL"))
  loop do
    arrived.clear
    nil while handle_next(connection)
    arrived.pop
  end
rescue StandardError => e
  # The event waits, and those after it.
  warn e.full_message
  connection&.close
  sleep 5
  retry
end

arrived = Queue.new
Thread.new { work(arrived) }
# One that another process stored does not ring here.
Thread.new { loop { sleep 5 and arrived << true } }

server = WEBrick::HTTPServer.new(
  BindAddress: "127.0.0.1", Port: Integer(ENV.fetch("PORT", "3000")), AccessLog: []
)
server.mount_proc("/") do |request, response|
  if request["content-length"].to_i > MAX_BYTES
    response.status = 413
  elsif genuine?(request, request.body.to_s)
    # An exception here is a 500: webhookpub tries again later.
    store(request.body)
    arrived << true
    response.status = 204
  else
    response.status = 401
  end
end
%w[INT TERM].each { |signal| trap(signal) { server.shutdown } }
server.start
