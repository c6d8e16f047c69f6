import { randomBytes } from "node:crypto";
import type { Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import type { TestDatabase } from "./database.ts";

/** A role that can log in, and nothing else but what its membership gives. */
export interface Login {
  readonly role: string;
  /** A connection of its own, as that role. */
  readonly sql: Sql;
  /** The connection string. */
  readonly url: string;
}

/** Creates a login role that is a member of these; it goes with the test. */
export async function createLogin(
  t: Test,
  database: TestDatabase,
  ...memberOf: string[]
): Promise<Login> {
  const { sql: owner, as } = database;
  const role = `login_${randomBytes(6).toString("hex")}`;
  await owner.unsafe(`create role ${role} login`);
  for (const group of memberOf) await owner.unsafe(`grant ${group} to ${role}`);
  const sql = as(role);
  t.teardown(async () => {
    await sql.end({ timeout: 1 });
    await owner.unsafe(`drop owned by ${role} cascade; drop role ${role}`);
  });
  const url = new URL(database.url);
  url.username = role;
  return { role, sql, url: url.href };
}
