// Publishes through Drizzle, over pg.
//
//   DATABASE_URL=postgres://… node publish_drizzle.ts
import { sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { bigint, pgTable, text, uuid } from "drizzle-orm/pg-core";
import pg from "pg";
import { CUSTOMER_ID, LABELS, NOTE, paid } from "./paid.ts";

const orders = pgTable("orders", {
  id: uuid().primaryKey().defaultRandom(),
  customerId: bigint("customer_id", { mode: "bigint" }).notNull(),
  note: text().notNull(),
});

const pool = new pg.Pool({ connectionString: process.env["DATABASE_URL"] });
const db = drizzle(pool);
type Tx = Pick<typeof db, "execute" | "insert" | "select">;

/** Tells that an order is paid; resolves to the event's id. */
async function publish(tx: Tx, orderId: string): Promise<string> {
  const data = paid(orderId);
  // sql.param keeps the array one parameter; a bare ${LABELS} becomes ($1, $2).
  const { rows } = await tx.execute<{ id: string }>(sql`
    select webhook_publish_tx(
      ${"order.paid"}, ${String(CUSTOMER_ID)}, ${JSON.stringify(data)}::text::jsonb,
      labels => ${sql.param(LABELS)}, message_id => ${orderId}
    ) as id`);
  return rows[0]?.id ?? "";
}

/** Makes an order. */
async function order(tx: Tx): Promise<string> {
  const [row] = await tx
    .insert(orders)
    .values({ customerId: CUSTOMER_ID, note: NOTE })
    .returning({ id: orders.id });
  return row?.id ?? "";
}

const published = await db.transaction(async (tx) => {
  const orderId = await order(tx);
  return { orderId, id: await publish(tx, orderId) };
});
console.log(`published ${published.id}`);

// The same message again: nothing is written, and the id is the same.
console.log(`again ${await publish(db, published.orderId)}`);

// Rolled back, there is no order and no event.
const back = new Error("rolled back");
await db
  .transaction(async (tx) => {
    console.log(`rolled back ${await publish(tx, await order(tx))}`);
    throw back;
  })
  .catch((error: unknown) => {
    if (error !== back) throw error;
  });

await pool.end();
