// Publishes through postgres.js.
//
//   DATABASE_URL=postgres://… node publish_postgres.ts
import postgres from "postgres";
import { CUSTOMER_ID, LABELS, NOTE, paid } from "./paid.ts";

const sql = postgres(process.env["DATABASE_URL"] ?? "");

/** Tells that an order is paid; resolves to the event's id. */
async function publish(tx: postgres.ISql, orderId: string): Promise<string> {
  // The object itself: JSON.stringify(data) would be encoded once more.
  const data = paid(orderId);
  const [row] = await tx<[{ id: string }]>`
    select webhook_publish_tx(
      ${"order.paid"}, ${CUSTOMER_ID.toString()}, ${tx.json(data)},
      labels => ${LABELS}, message_id => ${orderId}
    ) as id`;
  return row.id;
}

/** Makes an order. */
async function order(tx: postgres.ISql): Promise<string> {
  const [row] = await tx<[{ id: string }]>`
    insert into orders (customer_id, note)
    values (${CUSTOMER_ID.toString()}, ${NOTE})
    returning id`;
  return row.id;
}

const published = await sql.begin(async (tx) => {
  const orderId = await order(tx);
  return { orderId, id: await publish(tx, orderId) };
});
console.log(`published ${published.id}`);

// The same message again: nothing is written, and the id is the same.
console.log(`again ${await publish(sql, published.orderId)}`);

// Rolled back, there is no order and no event.
const back = new Error("rolled back");
await sql
  .begin(async (tx) => {
    console.log(`rolled back ${await publish(tx, await order(tx))}`);
    throw back;
  })
  .catch((error: unknown) => {
    if (error !== back) throw error;
  });

await sql.end();
