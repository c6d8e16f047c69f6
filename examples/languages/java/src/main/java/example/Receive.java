package example;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.standardwebhooks.Webhook;
import com.standardwebhooks.exceptions.WebhookVerificationException;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.http.HttpHeaders;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;

/**
 * A receiver: verifies, stores, answers; a thread does the work later.
 *
 * <pre>WEBHOOK_SECRET=whsec_… JDBC_DATABASE_URL=jdbc:postgresql://… java -cp … example.Receive</pre>
 *
 * Its database has the tables of inbox.sql. PORT is where it listens; 3000 if it is not set.
 */
public final class Receive {
  private static final int MAX_BYTES = 1024 * 1024;
  private static final ObjectMapper JSON = new ObjectMapper();

  private final Webhook webhook = new Webhook(System.getenv("WEBHOOK_SECRET"));
  private final Semaphore arrived = new Semaphore(0);

  private static Connection connect() throws SQLException {
    return DriverManager.getConnection(System.getenv("JDBC_DATABASE_URL"));
  }

  /** Takes one request; returns the status of its answer. */
  private int receive(HttpExchange exchange) {
    try {
      // The bytes as they came: parsed and written again, they would be others.
      byte[] bytes = exchange.getRequestBody().readNBytes(MAX_BYTES + 1);
      if (bytes.length > MAX_BYTES) {
        return 413;
      }
      String body = new String(bytes, StandardCharsets.UTF_8);
      // It also refuses timestamps that are more than five minutes off.
      webhook.verify(body, HttpHeaders.of(exchange.getRequestHeaders(), (name, value) -> true));
      store(JSON.readTree(body).get("id").asText(), body);
      arrived.release();
      return 204;
    } catch (WebhookVerificationException e) {
      return 401;
    } catch (IOException | SQLException e) {
      // Anything but a 2xx means: try again later.
      e.printStackTrace();
      return 500;
    }
  }

  /** Keeps an event; one that was here before changes nothing. */
  private static void store(String id, String body) throws SQLException {
    String sql =
        """
        insert into inbox (event_id, body)
        values (?, ?::jsonb)
        on conflict (event_id) do nothing
        """;
    try (Connection connection = connect();
        PreparedStatement insert = connection.prepareStatement(sql)) {
      insert.setString(1, id);
      insert.setString(2, body);
      insert.executeUpdate();
    }
  }

  /** The work. What it writes commits together with the mark that it is done. */
  private static void handle(Connection connection, JsonNode event) throws SQLException {
    if (event.get("event").asText().equals("order.paid")) {
      String sql = "insert into receipts (order_id, data) values (?::uuid, ?::jsonb)";
      try (PreparedStatement insert = connection.prepareStatement(sql)) {
        insert.setString(1, event.at("/data/order_id").asText());
        insert.setString(2, event.get("data").toString());
        insert.executeUpdate();
      }
    }
  }

  /** Handles the event that has waited longest; false when none waits. */
  private static boolean handleNext(Connection connection) throws SQLException, IOException {
    String next =
        """
        select event_id, body
        from inbox
        where handled_at is null
        order by received_at
        limit 1
        for update skip locked
        """;
    String done = "update inbox set handled_at = clock_timestamp() where event_id = ?";
    try (PreparedStatement select = connection.prepareStatement(next);
        PreparedStatement update = connection.prepareStatement(done)) {
      ResultSet row = select.executeQuery();
      boolean found = row.next();
      if (found) {
        handle(connection, JSON.readTree(row.getString("body")));
        update.setString(1, row.getString("event_id"));
        update.executeUpdate();
      }
      connection.commit();
      return found;
    }
  }

  /** Handles what is stored, for ever. */
  private void work() {
    while (true) {
      try (Connection connection = connect()) {
        connection.setAutoCommit(false);
        while (true) {
          arrived.drainPermits();
          while (handleNext(connection)) {}
          // One that another process stored does not ring here.
          arrived.tryAcquire(5, TimeUnit.SECONDS);
        }
      } catch (Exception e) {
        // The event waits, and those after it.
        e.printStackTrace();
        try {
          Thread.sleep(5000);
        } catch (InterruptedException interrupted) {
          return;
        }
      }
    }
  }

  public static void main(String[] args) throws IOException {
    Receive receiver = new Receive();
    Thread worker = new Thread(receiver::work);
    worker.setDaemon(true);
    worker.start();
    String port = System.getenv().getOrDefault("PORT", "3000");
    HttpServer server =
        HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(port)), 0);
    server.setExecutor(Executors.newCachedThreadPool());
    server.createContext(
        "/",
        exchange -> {
          exchange.sendResponseHeaders(receiver.receive(exchange), -1);
          exchange.close();
        });
    server.start();
  }
}
