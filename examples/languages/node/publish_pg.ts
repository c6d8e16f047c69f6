// Publishes through pg (node-postgres).
//
//   DATABASE_URL=postgres://… node publish_pg.ts
import pg from "pg";
import { CUSTOMER_ID, LABELS, NOTE, paid } from "./paid.ts";

const pool = new pg.Pool({ connectionString: process.env["DATABASE_URL"] });

/** Tells that an order is paid; resolves to the event's id. */
async function publish(client: pg.PoolClient, orderId: string): Promise<string> {
  const data = paid(orderId);
  const { rows } = await client.query<{ id: string }>(
    `select webhook_publish_tx($1, $2, $3, labels => $4, message_id => $5) as id`,
    ["order.paid", CUSTOMER_ID, data, LABELS, orderId],
  );
  return rows[0]?.id ?? "";
}

/** Makes an order. */
async function order(client: pg.PoolClient): Promise<string> {
  const { rows } = await client.query<{ id: string }>(
    "insert into orders (customer_id, note) values ($1, $2) returning id",
    [CUSTOMER_ID, NOTE],
  );
  return rows[0]?.id ?? "";
}

// One client from begin to commit: pool.query() may take another connection each time.
const client = await pool.connect();
try {
  await client.query("begin");
  const orderId = await order(client);
  const id = await publish(client, orderId);
  await client.query("commit");
  console.log(`published ${id}`);

  // The same message again: nothing is written, and the id is the same.
  console.log(`again ${await publish(client, orderId)}`);

  // Rolled back, there is no order and no event.
  await client.query("begin");
  console.log(`rolled back ${await publish(client, await order(client))}`);
} finally {
  await client.query("rollback");
  client.release();
}
await pool.end();
