// Publishes through TypeORM, over pg.
//
//   DATABASE_URL=postgres://… node publish_typeorm.ts
import { DataSource, type EntityManager, EntitySchema } from "typeorm";
import { CUSTOMER_ID, LABELS, NOTE, paid } from "./paid.ts";

interface Order {
  id: string;
  customerId: string;
  note: string;
}

const Orders = new EntitySchema<Order>({
  name: "orders",
  columns: {
    id: { type: "uuid", primary: true, generated: "uuid" },
    customerId: { type: "bigint", name: "customer_id" },
    note: { type: "text" },
  },
});

const source = await new DataSource({
  type: "postgres",
  url: process.env["DATABASE_URL"] ?? "",
  entities: [Orders],
}).initialize();

/** Tells that an order is paid; resolves to the event's id. */
async function publish(manager: EntityManager, order: Order): Promise<string> {
  const data = paid(order.id);
  const rows = await manager.query<{ id: string }[]>(
    `select webhook_publish_tx($1, $2, $3, labels => $4, message_id => $5) as id`,
    ["order.paid", order.customerId, data, LABELS, order.id],
  );
  return rows[0]?.id ?? "";
}

/** Makes an order. */
function order(manager: EntityManager): Promise<Order> {
  return manager.save(Orders, { customerId: String(CUSTOMER_ID), note: NOTE } as Order);
}

// The manager of the transaction: source.query() would take another connection.
const published = await source.transaction(async (manager) => {
  const made = await order(manager);
  return { made, id: await publish(manager, made) };
});
console.log(`published ${published.id}`);

// The same message again: nothing is written, and the id is the same.
console.log(`again ${await publish(source.manager, published.made)}`);

// Rolled back, there is no order and no event.
const back = new Error("rolled back");
await source
  .transaction(async (manager) => {
    console.log(`rolled back ${await publish(manager, await order(manager))}`);
    throw back;
  })
  .catch((error: unknown) => {
    if (error !== back) throw error;
  });

await source.destroy();
