import type { Sql } from "../../src/database/connect.ts";
import { until } from "./until.ts";

/** The process id of a session's backend; for a session of one connection. */
export async function backendOf(session: Sql): Promise<number> {
  const [row] = await session<[{ pid: number }]>`select pg_backend_pid() as pid`;
  return row.pid;
}

/** Waits until that backend waits for a lock: then what holds it up has really met it. */
export async function untilBlocked(sql: Sql, pid: number): Promise<void> {
  await until(
    async () =>
      (
        await sql`
          select from pg_stat_activity where pid = ${pid} and wait_event_type = 'Lock'`
      ).count > 0,
    `backend ${pid} to wait for a lock`,
  );
}

/** Waits until a database has no sessions of this name: a backend ends a little after its client. */
export async function untilNoSessions(sql: Sql, database: string, name: string): Promise<void> {
  await until(
    async () =>
      (
        await sql`
          select from pg_stat_activity
          where datname = ${database} and application_name = ${name} and pid <> pg_backend_pid()`
      ).count === 0,
    `sessions of ${name} to end`,
  );
}
