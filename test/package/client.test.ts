// The client with the drivers, query builders and ORMs that people use, as the example has them.
import { cp } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { root } from "../../src/config.ts";
import { testDatabase } from "../support/database.ts";
import { installProject } from "../support/project.ts";

// Prisma's command is ten times the size of all others together.
const withPrisma = process.env["CI"] !== undefined;
const DRIVERS = ["postgres", "pg", "drizzle", "kysely", "knex", "typeorm", "function"];
const PACKAGES = [
  "pg@8.23.1",
  "drizzle-orm@0.45.4",
  "kysely@0.29.9",
  "knex@3.3.0",
  "typeorm@1.1.1",
];
const TYPES = ["@types/node@24.19.2", "@types/pg@8.23.0"];
const PRISMA = ["@prisma/client@7.10.0", "@prisma/adapter-pg@7.10.0", "prisma@7.10.0"];

void t.test("the client publishes in the transaction of each driver", async (t) => {
  const beside = withPrisma ? [...PACKAGES, ...TYPES, ...PRISMA] : PACKAGES;
  const project = await installProject(t, ...beside);
  await cp(join(root, "examples/languages/client"), project.folder, { recursive: true });
  const { sql, url } = await testDatabase(t);
  await sql`insert into webhookpub.event_types (name) values ('order.paid')`;
  const drivers = withPrisma ? [...DRIVERS, "prisma"] : DRIVERS;
  if (withPrisma) {
    const types = { extends: join(root, "tsconfig.json"), include: ["*.ts"] };
    await project.write("tsconfig.json", JSON.stringify(types));
    const generate = ["npx", "prisma", "generate", "--schema", "schema.prisma"];
    const generated = await project.run(generate, { PRISMA_SCHEMA_ENGINE_BINARY: "/bin/true" });
    t.equal(generated.code, 0, generated.output);
    const checked = await project.run([
      process.execPath,
      join(root, "node_modules/.bin/tsc"),
      "-p",
      ".",
    ]);
    t.equal(checked.code, 0, `types: ${checked.output}`);
  }

  const { code, output } = await project.run([process.execPath, "publish.ts", ...drivers], {
    DATABASE_URL: url,
  });
  t.equal(code, 0, output);
  const events = await sql<{ id: string; message_id: string; labels: string[] }[]>`
    select id, message_id, labels from webhookpub.events order by created_at`;
  t.strictSame(
    events.map((event) => event.message_id),
    drivers.map((name) => `order_${name}`),
    "each once, and nothing that was rolled back",
  );
  for (const { id, message_id: messageId, labels } of events) {
    const name = messageId.replace("order_", "");
    t.match(output, `${name}: published ${id}\n${name}: again ${id}\n`);
    t.match(output, `${name}: WH002 event type 'order.eaten' is not in the catalog HINT List`);
    t.strictSame(labels, ["vip", "a, b", '"q"'], name);
  }
  const payloads = await sql`
    select distinct envelope::jsonb -> 'data' as data from webhookpub.envelopes_by_event`;
  t.strictSame(
    [...payloads],
    [{ data: { total: 12.5, note: 'a "quote", ünïcode and \\ {braces}', nothing: null } }],
  );
});
