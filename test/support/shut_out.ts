import type { Test } from "tap";
import { connect } from "../../src/database/connect.ts";
import { databaseOf } from "./cluster.ts";
import type { TestDatabase } from "./database.ts";

/**
 * Ends webhookpub's own connections of a role and lets no new ones be made to the database;
 * what graphile-worker and the test hold goes on.
 *
 * @returns lets connections be made again
 */
export async function shutOut(
  t: Test,
  { url, sql }: TestDatabase,
  role: string,
): Promise<() => Promise<void>> {
  const admin = connect(databaseOf(url, "postgres"), { max: 1 });
  t.teardown(() => admin.end({ timeout: 1 }));
  const allow = (allowed: boolean) =>
    admin.unsafe(`alter database ${new URL(url).pathname.slice(1)} allow_connections ${allowed}`);
  await allow(false);
  await sql`
    select pg_terminate_backend(a.pid) from pg_stat_activity as a
    where a.application_name = 'webhookpub' and a.datname = current_database()
      and a.usename = ${role}`;
  return async () => void (await allow(true));
}
