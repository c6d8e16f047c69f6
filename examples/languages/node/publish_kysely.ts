// Publishes through Kysely, over pg.
//
//   DATABASE_URL=postgres://… node publish_kysely.ts
import { type Generated, Kysely, PostgresDialect, sql } from "kysely";
import pg from "pg";
import { CUSTOMER_ID, LABELS, NOTE, paid } from "./paid.ts";

interface Database {
  orders: { id: Generated<string>; customer_id: bigint; note: string };
}

const pool = new pg.Pool({ connectionString: process.env["DATABASE_URL"] });
const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) });

/** Tells that an order is paid; resolves to the event's id. */
async function publish(trx: Kysely<Database>, orderId: string): Promise<string> {
  const data = paid(orderId);
  const { rows } = await sql<{ id: string }>`
    select webhook_publish_tx(
      ${"order.paid"}, ${CUSTOMER_ID}::text, ${data}::jsonb,
      labels => ${LABELS}, message_id => ${orderId}
    ) as id`.execute(trx);
  return rows[0]?.id ?? "";
}

/** Makes an order. */
async function order(trx: Kysely<Database>): Promise<string> {
  const row = await trx
    .insertInto("orders")
    .values({ customer_id: CUSTOMER_ID, note: NOTE })
    .returning("id")
    .executeTakeFirstOrThrow();
  return row.id;
}

const published = await db.transaction().execute(async (trx) => {
  const orderId = await order(trx);
  return { orderId, id: await publish(trx, orderId) };
});
console.log(`published ${published.id}`);

// The same message again: nothing is written, and the id is the same.
console.log(`again ${await publish(db, published.orderId)}`);

// Rolled back, there is no order and no event.
const back = new Error("rolled back");
await db
  .transaction()
  .execute(async (trx) => {
    console.log(`rolled back ${await publish(trx, await order(trx))}`);
    throw back;
  })
  .catch((error: unknown) => {
    if (error !== back) throw error;
  });

await db.destroy();
