import type { Sql } from "../../src/database/connect.ts";

/** Server processes of this database that run such a query, or did last. */
export async function running(sql: Sql, query: string): Promise<number[]> {
  return await find(sql, query, false);
}

/** Those of them that wait for a lock. */
export async function blockedIn(sql: Sql, query: string): Promise<number[]> {
  return await find(sql, query, true);
}

async function find(sql: Sql, query: string, blocked: boolean): Promise<number[]> {
  const rows = await sql<{ pid: number }[]>`
    select pid from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()
      and query like ${`%${query}%`}
      and (not ${blocked} or wait_event_type = 'Lock')`;
  return rows.map(({ pid }) => pid);
}

/** Ends server processes, and waits until they are gone. */
export async function terminate(sql: Sql, pids: readonly number[]): Promise<void> {
  for (const pid of pids) await sql`select pg_terminate_backend(${pid}, 10000)`;
}

/** How many rows a query finds. */
export async function count(rows: PromiseLike<{ readonly count: number }>): Promise<number> {
  return (await rows).count;
}
