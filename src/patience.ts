// What needs a lock that somebody else may hold for long: it never waits for it in a line that others
// would stand in behind it, but gives up soon, and comes again.
import { setTimeout as sleep } from "node:timers/promises";
import { runs } from "./config.ts";
import { type Blocker, oldestHolder } from "./database/calls.ts";
import type { Sql } from "./database/connect.ts";
import { codeOf, messageOf, WebhookpubError } from "./errors.ts";

/** Whoever publishes waits behind whoever waits for a table: for no longer than this. */
export const LOCK_MS = 500;
/** And then publishers have their time. */
const PAUSE_MS = 1000;
/** An application's transaction of this length is no accident. */
export const PATIENCE_MS = 60_000;

/**
 * Does something that must not wait for locks, again and again until it has them.
 *
 * @param log hears, once for each, who is in the way
 * @throws WebhookpubError WH036 when the patience is over; what has been done is kept
 */
export async function patiently(
  sql: Sql,
  log: (line: string) => void,
  patienceMs: number,
  work: () => Promise<void>,
): Promise<void> {
  const begun = performance.now();
  for (let told: number | undefined; ;) {
    try {
      return await work();
    } catch (error) {
      if (!isForLocks(error)) throw error;
      const holder = await oldestHolder(sql);
      if (performance.now() - begun > patienceMs) throw inTheWay(holder);
      if (holder?.pid !== told) log(`waiting for a lock: ${said(holder)}`);
      told = holder?.pid;
      await sleep(PAUSE_MS);
    }
  }
}

/** A lock was not to be had in time, or two waited for one another, or changed the same thing. */
function isForLocks(error: unknown): boolean {
  return (
    ["55P03", "40P01"].includes(codeOf(error)) || messageOf(error).startsWith("tuple concurrently")
  );
}

function inTheWay(holder: Blocker | undefined): WebhookpubError {
  return new WebhookpubError(
    "WH036",
    `a lock that is needed for a moment is never free: ${said(holder)}`,
    `End that transaction, or wait for its end; then run ${runs("migrate")} again, which goes on from here.`,
  );
}

function said(holder: Blocker | undefined): string {
  if (!holder) return "whoever holds it ends again and again";
  const { pid, name, state, seconds } = holder;
  const what = [name, state].filter(Boolean).join(", ");
  const since = seconds === null ? "" : `, with a transaction open for ${seconds} s,`;
  return `process ${pid}${what ? ` (${what})` : ""}${since} is in the way`;
}
