// Publishes through Prisma, with its driver adapter for pg: no engine binary is needed.
//
//   npx prisma generate --schema schema.prisma
//   DATABASE_URL=postgres://… node publish_prisma.ts
import { PrismaPg } from "@prisma/adapter-pg";
import { type Order, type Prisma, PrismaClient } from "./generated/client.ts";
import { CUSTOMER_ID, LABELS, NOTE, paid } from "./paid.ts";

const adapter = new PrismaPg({ connectionString: process.env["DATABASE_URL"] ?? "" });
const prisma = new PrismaClient({ adapter });

/** Tells that an order is paid; resolves to the event's id. */
async function publish(tx: Prisma.TransactionClient, order: Order): Promise<string> {
  const data = paid(order.id);
  const rows = await tx.$queryRaw<{ id: string }[]>`
    select webhook_publish_tx(
      ${"order.paid"}, ${order.customerId}::text, ${JSON.stringify(data)}::text::jsonb,
      labels => ${LABELS}, message_id => ${order.id}
    ) as id`;
  return rows[0]?.id ?? "";
}

/** Makes an order. */
function order(tx: Prisma.TransactionClient): Promise<Order> {
  return tx.order.create({ data: { customerId: CUSTOMER_ID, note: NOTE } });
}

const published = await prisma.$transaction(async (tx) => {
  const made = await order(tx);
  return { made, id: await publish(tx, made) };
});
console.log(`published ${published.id}`);

// The same message again: nothing is written, and the id is the same.
console.log(`again ${await publish(prisma, published.made)}`);

// Rolled back, there is no order and no event.
const back = new Error("rolled back");
await prisma
  .$transaction(async (tx) => {
    console.log(`rolled back ${await publish(tx, await order(tx))}`);
    throw back;
  })
  .catch((error: unknown) => {
    if (error !== back) throw error;
  });

await prisma.$disconnect();
