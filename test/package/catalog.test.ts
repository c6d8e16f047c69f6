// A catalog that a host declares: registered, and as a document that AsyncAPI's own parser takes.
import t from "tap";
import { testDatabase } from "../support/database.ts";
import { installProject } from "../support/project.ts";

const CATALOG = `import { defineCatalog } from "webhookpub";
import { z } from "zod";

export default defineCatalog({
  "order.created": z
    .object({ id: z.uuid(), total: z.number().positive(), note: z.string().nullable().optional() })
    .describe("An order was placed."),
  "order.shipped": z.object({ id: z.uuid(), tracking: z.array(z.string()) }),
});
`;

const VALIDATE = `import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
const { document, diagnostics } = await new Parser().parse(readFileSync("asyncapi.json", "utf8"));
console.log(JSON.stringify({
  diagnostics: diagnostics.filter(({ severity }) => severity === 0),
  types: document?.allMessages().all().map((message) => message.name()),
}));
`;

// Its parser is ten times the size of all that the package needs.
const withParser = process.env["CI"] !== undefined;

void t.test("webhookpub catalog registers what a host declares, and prints it", async (t) => {
  const parser = withParser ? ["@asyncapi/parser@3.6.6"] : [];
  const project = await installProject(t, "zod@4.6.7", ...parser);
  await project.write("catalog.ts", CATALOG);
  const { sql, url } = await testDatabase(t);
  const register = async () =>
    await project.run(["npx", "webhookpub", "catalog", "catalog.ts"], { DATABASE_URL: url });
  t.strictSame(await register(), {
    code: 0,
    output: "order.created: added\norder.shipped: added\n",
  });
  const [created] = await sql`
    select description, schema from webhookpub.event_types where name = 'order.created'`;
  t.match(created, {
    description: "An order was placed.",
    schema: { type: "object", required: ["id", "total"], properties: { id: { format: "uuid" } } },
  });
  await sql`update webhookpub.event_types set description = '' where name = 'order.created'`;
  t.match(await register(), { output: "order.created: changed\norder.shipped: unchanged\n" });
  t.match(await sql`select webhook_publish_tx('order.created', 'user_1', '{}') as id`, [
    { id: /^evt_/ },
  ]);

  for (const { text, says } of [
    { text: "export default 1;", says: /default export of wrong\.ts is no defineCatalog/ },
    { text: "import 'nowhere';", says: /wrong\.ts can't be loaded: .*nowhere/ },
  ]) {
    await project.write("wrong.ts", text);
    const wrong = await project.run(["npx", "webhookpub", "catalog", "wrong.ts"]);
    t.equal(wrong.code, 2);
    t.match(wrong.output, says);
  }

  const printed = await project.run(["npx", "webhookpub", "catalog", "--asyncapi", "catalog.ts"]);
  t.equal(printed.code, 0, printed.output);
  t.match(JSON.parse(printed.output), {
    asyncapi: "3.0.0",
    operations: { "order.created": { action: "send" } },
    components: { messages: { "order.shipped": { payload: { required: ["event", "id"] } } } },
  });
  if (!withParser) return;
  await project.write("asyncapi.json", printed.output);
  await project.write("validate.mjs", VALIDATE);
  const validated = await project.run([process.execPath, "validate.mjs"]);
  t.strictSame(JSON.parse(validated.output), {
    diagnostics: [],
    types: ["order.created", "order.shipped"],
  });
});
