// Publishes through Knex, over pg.
//
//   DATABASE_URL=postgres://… node publish_knex.ts
import knex, { type Knex } from "knex";
import { CUSTOMER_ID, LABELS, NOTE, paid } from "./paid.ts";

const db = knex({ client: "pg", connection: process.env["DATABASE_URL"] ?? "" });

/** Tells that an order is paid; resolves to the event's id. */
async function publish(trx: Knex, orderId: string): Promise<string> {
  const data = paid(orderId);
  const { rows } = await trx.raw<{ rows: { id: string }[] }>(
    `select webhook_publish_tx(
      :type, :user, :data, labels => :labels, message_id => :message
    ) as id`,
    {
      type: "order.paid",
      user: String(CUSTOMER_ID),
      data: JSON.stringify(data),
      labels: LABELS,
      message: orderId,
    },
  );
  return rows[0]?.id ?? "";
}

/** Makes an order. */
async function order(trx: Knex): Promise<string> {
  const rows = await trx<{ id: string; customer_id: string; note: string }>("orders")
    .insert({ customer_id: String(CUSTOMER_ID), note: NOTE })
    .returning("id");
  return rows[0]?.id ?? "";
}

const published = await db.transaction(async (trx) => {
  const orderId = await order(trx);
  return { orderId, id: await publish(trx, orderId) };
});
console.log(`published ${published.id}`);

// The same message again: nothing is written, and the id is the same.
console.log(`again ${await publish(db, published.orderId)}`);

// Rolled back, there is no order and no event.
const back = new Error("rolled back");
await db
  .transaction(async (trx) => {
    console.log(`rolled back ${await publish(trx, await order(trx))}`);
    throw back;
  })
  .catch((error: unknown) => {
    if (error !== back) throw error;
  });

await db.destroy();
