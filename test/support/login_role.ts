import { randomBytes } from "node:crypto";
import type { Test } from "tap";
import type { Sql } from "../../src/client.ts";
import type { TestDatabase } from "./database.ts";

/** A role that people connect with: no superuser, owner of nothing. */
export interface LoginRole {
  readonly name: string;
  /** The database's connection string with its name. */
  readonly url: string;
  /** A connection of its own. */
  readonly sql: Sql;
}

/** Makes a LOGIN role, a member of some other; it goes with the test. */
export async function loginRole(
  t: Test,
  database: TestDatabase,
  ...memberOf: string[]
): Promise<LoginRole> {
  const { sql } = database;
  // Roles belong to the cluster, which other tests use at the same time.
  const name = `test_role_${randomBytes(6).toString("hex")}`;
  await sql.unsafe(`create role ${name} login`);
  for (const group of memberOf) await sql.unsafe(`grant ${group} to ${name}`);
  t.teardown(async () => {
    await sql.unsafe(`drop owned by ${name} cascade`);
    await sql.unsafe(`drop role ${name}`);
  });
  const url = new URL(database.url);
  url.username = name;
  return { name, url: url.href, sql: database.as(name) };
}
