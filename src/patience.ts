// What needs a lock that somebody else may hold for long: it never waits for it in a line that others
// would stand in behind it, but gives up soon, and comes again.
import { setTimeout as sleep } from "node:timers/promises";
import { runs } from "./config.ts";
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
  let since: number | undefined;
  for (let told: number | undefined; ;) {
    try {
      return await work();
    } catch (error) {
      if (!isForLocks(error)) throw error;
      const holder = await oldestHolder(sql);
      since ??= performance.now();
      if (performance.now() - since > patienceMs) throw inTheWay(holder);
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

/** A session that holds locks on tables of ours; what is not known of it is null. */
interface Blocker {
  readonly pid: number;
  readonly name: string | null;
  readonly state: string | null;
  /** Since when its transaction is open. */
  readonly seconds: number | null;
}

/** Who has held locks on tables of ours and graphile-worker's for longest, to change them or rows. */
async function oldestHolder(sql: Sql): Promise<Blocker | undefined> {
  const [holder] = await sql<[Blocker?]>`
    select a.pid, a.application_name as name, a.state,
      extract(epoch from clock_timestamp() - a.xact_start)::integer as seconds
    from pg_stat_activity as a
    where a.pid in (
      select l.pid
      from pg_locks as l
      join pg_class as c on c.oid = l.relation
      where l.database = (select d.oid from pg_database as d where d.datname = current_database())
        and l.granted
        and l.pid <> pg_backend_pid()
        and c.relnamespace in (to_regnamespace('webhookpub'), to_regnamespace('graphile_worker'))
    )
    order by a.xact_start
    limit 1`;
  return holder;
}
