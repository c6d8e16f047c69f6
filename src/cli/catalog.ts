import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { z } from "zod";
import { asyncApi } from "../asyncapi.ts";
import type { Catalog } from "../client/catalog.ts";
import { databaseUrl } from "../config.ts";
import { registerEventTypes } from "../database/calls.ts";
import { connect } from "../database/connect.ts";
import { messageOf, UsageError } from "../errors.ts";
import { command, EXIT, flag, toggle } from "./command.ts";

export const catalog = command({
  name: "catalog",
  argument: "FILE",
  about: `Registers event types, with their descriptions and JSON Schemas, in the database that DATABASE_URL
names. FILE is a module whose default export is a defineCatalog(). No type is removed.`,
  flags: {
    asyncapi: toggle("prints an AsyncAPI 3 document instead, and asks no database"),
    title: flag("TEXT", z.string().default("Webhooks"), "its title (Webhooks)"),
    release: flag("TEXT", z.string().default("1.0.0"), "its version (1.0.0)"),
  },
  async run({ asyncapi, title, release }, file) {
    const declared = await load(file);
    if (asyncapi) {
      console.log(JSON.stringify(asyncApi(declared, { title, version: release }), null, 2));
      return EXIT.done;
    }
    const sql = connect(databaseUrl(), { max: 1 });
    try {
      for (const { name, outcome } of await registerEventTypes(sql, declared.describe())) {
        console.log(`${name}: ${outcome}`);
      }
      return EXIT.done;
    } finally {
      await sql.end({ timeout: 5 });
    }
  },
});

/** The catalog that a module has as its default export. */
async function load(file: string): Promise<Catalog> {
  let module: { default?: unknown };
  try {
    module = (await import(pathToFileURL(resolve(file)).href)) as { default?: unknown };
  } catch (error) {
    throw new UsageError(`catalog: ${file} can't be loaded: ${messageOf(error)}`);
  }
  const found = module.default as Partial<Catalog> | undefined;
  if (typeof found?.describe === "function") return found as Catalog;
  throw new UsageError(`catalog: the default export of ${file} is no defineCatalog()`);
}
