// The client in a transaction of each driver, query builder and ORM; the arguments name some.
//
//   DATABASE_URL=postgres://… node publish.ts pg kysely
import { drizzle } from "drizzle-orm/node-postgres";
import knex from "knex";
import { Kysely, PostgresDialect } from "kysely";
import pg from "pg";
import postgres from "postgres";
import { DataSource } from "typeorm";
import { type Executor, publishTx, UnknownEventTypeError } from "webhookpub";

const connectionString = process.env["DATABASE_URL"] ?? "";

/** Runs work in a transaction, and hands it what publishTx takes. */
type Transaction = (work: (tx: Executor) => Promise<void>) => Promise<unknown>;

/** How each begins and ends one. */
const drivers: Record<string, () => Promise<{ begin: Transaction; end(): Promise<unknown> }>> = {
  async postgres() {
    const sql = postgres(connectionString);
    return { begin: (work) => sql.begin((tx) => work(tx)), end: () => sql.end() };
  },

  async pg() {
    const client = new pg.Client({ connectionString });
    await client.connect();
    return {
      async begin(work) {
        await client.query("begin");
        try {
          await work(client);
          await client.query("commit");
        } catch (error) {
          await client.query("rollback");
          throw error;
        }
      },
      end: () => client.end(),
    };
  },

  async drizzle() {
    const pool = new pg.Pool({ connectionString });
    const db = drizzle(pool);
    return { begin: (work) => db.transaction((tx) => work(tx)), end: () => pool.end() };
  },

  async kysely() {
    const dialect = new PostgresDialect({ pool: new pg.Pool({ connectionString }) });
    const db = new Kysely<unknown>({ dialect });
    return {
      begin: (work) => db.transaction().execute((tx) => work(tx)),
      end: () => db.destroy(),
    };
  },

  async knex() {
    const db = knex({ client: "pg", connection: connectionString });
    return { begin: (work) => db.transaction((tx) => work(tx)), end: () => db.destroy() };
  },

  async typeorm() {
    const source = await new DataSource({ type: "postgres", url: connectionString }).initialize();
    return {
      begin: (work) => source.transaction((manager) => work(manager)),
      end: () => source.destroy(),
    };
  },

  async prisma() {
    const { PrismaPg } = await import("@prisma/adapter-pg");
    // Made by `npx prisma generate`.
    const { PrismaClient } = await import("./generated/client.ts");
    const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString }) });
    return {
      begin: (work) => prisma.$transaction((tx) => work(tx)),
      end: () => prisma.$disconnect(),
    };
  },

  /** Anything else: a function of text and parameters. */
  async function() {
    const sql = postgres(connectionString);
    return {
      begin: (work) => sql.begin((tx) => work((text, parameters) => tx.unsafe(text, parameters))),
      end: () => sql.end(),
    };
  },
};

/** Publishes, says it again, rolls one back, and is refused one. */
async function play(name: string): Promise<void> {
  const driver = await drivers[name]?.();
  if (!driver) throw new Error(`one of ${Object.keys(drivers).join(", ")}`);
  const order = {
    type: "order.paid",
    userId: "user_1",
    data: { total: 12.5, note: 'a "quote", ünïcode and \\ {braces}', nothing: null },
    labels: ["vip", "a, b", '"q"'],
    messageId: `order_${name}`,
  };

  await driver.begin(async (tx) => {
    console.log(`${name}: published ${await publishTx(tx, order)}`);
  });
  await driver.begin(async (tx) => {
    console.log(`${name}: again ${await publishTx(tx, order)}`);
  });

  // Rolled back, there is no event.
  const back = new Error("rolled back");
  await driver
    .begin(async (tx) => {
      await publishTx(tx, { ...order, messageId: `rolled_back_${name}` });
      throw back;
    })
    .catch((error: unknown) => {
      if (error !== back) throw error;
    });

  // An error is of the class of its SQLSTATE, whatever the driver makes of it.
  await driver
    .begin(async (tx) => {
      await publishTx(tx, { ...order, type: "order.eaten" });
    })
    .catch((error: unknown) => {
      if (!(error instanceof UnknownEventTypeError)) throw error;
      console.log(`${name}: ${error.code} ${error.message} HINT ${error.hint}`);
    });
  await driver.end();
}

for (const name of process.argv.slice(2)) await play(name);
