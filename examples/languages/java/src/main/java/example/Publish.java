package example;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.List;
import java.util.Map;
import java.util.UUID;

/**
 * Publishes through JDBC.
 *
 * <pre>JDBC_DATABASE_URL=jdbc:postgresql://… java -cp … example.Publish</pre>
 */
public final class Publish {
  private static final long CUSTOMER_ID = 42;
  private static final String NOTE = "Grüße, \"you\" \\ 😀";
  private static final ObjectMapper JSON = new ObjectMapper();

  /** Makes an order. */
  private static UUID order(Connection connection) throws SQLException {
    String sql = "insert into orders (customer_id, note) values (?, ?) returning id";
    try (PreparedStatement insert = connection.prepareStatement(sql)) {
      insert.setLong(1, CUSTOMER_ID);
      insert.setString(2, NOTE);
      return only(insert.executeQuery()).getObject(1, UUID.class);
    }
  }

  /** Tells that an order is paid; returns the event's id. */
  private static String publish(Connection connection, UUID orderId)
      throws SQLException, JsonProcessingException {
    Map<String, Object> data =
        Map.of(
            "order_id", orderId,
            "amount", 1250,
            "note", NOTE,
            "items", List.of(Map.of("sku", "A-1", "count", 2)));
    String[] labels = {"vip", "two words, \"quoted\""};
    String sql =
        """
        select webhook_publish_tx(
          ?, ?::text, ?::jsonb, labels => ?, message_id => ?::text
        )
        """;
    try (PreparedStatement select = connection.prepareStatement(sql)) {
      select.setString(1, "order.paid");
      select.setLong(2, CUSTOMER_ID);
      select.setString(3, JSON.writeValueAsString(data));
      select.setArray(4, connection.createArrayOf("text", labels));
      select.setObject(5, orderId);
      return only(select.executeQuery()).getString(1);
    }
  }

  private static ResultSet only(ResultSet rows) throws SQLException {
    rows.next();
    return rows;
  }

  public static void main(String[] args) throws Exception {
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    try (Connection connection = DriverManager.getConnection(System.getenv("JDBC_DATABASE_URL"))) {
      // Without this, each statement is a transaction of its own.
      connection.setAutoCommit(false);
      UUID orderId = order(connection);
      String eventId = publish(connection, orderId);
      connection.commit();
      out.println("published " + eventId);

      // The same message again: nothing is written, and the id is the same.
      out.println("again " + publish(connection, orderId));
      connection.commit();

      // Rolled back, there is no order and no event.
      out.println("rolled back " + publish(connection, order(connection)));
      connection.rollback();
    }
  }
}
