import { readdirSync, readFileSync } from "node:fs";
import type { Sql } from "../../src/database/connect.ts";

/** What processes have used of the processor, in microseconds, and what was written ahead. */
export interface Spent {
  readonly postgres: number;
  readonly worker: number;
  /** Bytes of WAL. */
  readonly wal: number;
}

/** Ticks of /proc are of this length on every Linux that there is. */
const TICK_US = 10_000;

/**
 * Reads what has been spent so far: processor time, not time on a clock, so that it says the same
 * on a busy machine.
 */
export async function spent(sql: Sql, worker?: number): Promise<Spent> {
  const [row] = await sql<[{ wal: string; pid: number }]>`
    select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as wal, pg_backend_pid() as pid`;
  const postmaster = statOf(row.pid).parent;
  const own = statOf(postmaster);
  let postgres = own.own + own.reaped;
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const one = tryStat(Number(name));
    if (one?.parent === postmaster) postgres += one.own;
  }
  return { postgres, worker: worker === undefined ? 0 : statOf(worker).own, wal: Number(row.wal) };
}

/** The difference, for each of `count`. */
export function perEach(before: Spent, after: Spent, count: number): Spent {
  return {
    postgres: (after.postgres - before.postgres) / count,
    worker: (after.worker - before.worker) / count,
    wal: (after.wal - before.wal) / count,
  };
}

interface Stat {
  readonly parent: number;
  readonly own: number;
  /** Of its children that have ended. */
  readonly reaped: number;
}

function statOf(pid: number): Stat {
  // The name of a process may hold blanks.
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1")
    .replace(/^.*\) /, "")
    .split(" ");
  const ticks = (...at: number[]) => at.reduce((sum, i) => sum + Number(fields[i]), 0) * TICK_US;
  return { parent: Number(fields[1]), own: ticks(11, 12), reaped: ticks(13, 14) };
}

function tryStat(pid: number): Stat | undefined {
  try {
    return statOf(pid);
  } catch {
    return undefined; // It has just ended.
  }
}
