import { setTimeout as sleep } from "node:timers/promises";
import { type Batch, enterFanOut, fanOutBatch, leaveFanOut } from "./database/calls.ts";
import type { Pool } from "./database/pool.ts";

/** From so many events a second on it stays awake, for each NOTIFY would cost others more. */
const AWAKE_PER_S = 50;
/** And below so many it goes back to sleep. */
const ASLEEP_PER_S = 25;
/** One batch counts for no more than this: many events of one transaction are one NOTIFY. */
const MOST_PER_BATCH = 100;
/** While it is awake it looks again after this time, or later the longer nothing has come. */
const MIN_PAUSE_MS = 4;
const MAX_PAUSE_MS = 10;
/** PostgreSQL is left alone for as long as a batch has taken, but no longer than this. */
const MOST_REST_MS = 50;
/** So many events in a batch mean that there are more. */
const BACKLOG = 300;
/**
 * After a NOTIFY it looks once more, after this time: a publisher sends none while another is
 * about to (webhookpub.notify_is_due), and may commit after that one.
 */
const SECOND_LOOK_MS = 60;
/** How often it has others look for what it has not come to, and for deliveries of the direct
 * path. */
const WAKE_MS = 100;

interface Hands {
  /** How many requests could be begun at once. */
  room(): number;
  /** Takes what was fanned out. */
  deliver(batch: Batch): void;
  /** Adds the jobs that are missing. */
  wake(): void;
  /** Fans out what is heavy, beside this. */
  lookForHeavy(): void;
}

/** Fans out the events of all, as one of many. */
export interface FanOut {
  /**
   * Looks for pending events, and for what else comes meanwhile.
   *
   * @throws Error when its connection is lost
   */
  look(): Promise<void>;
}

/**
 * Makes a fan-out. At rest it looks when it is told to, which costs a statement. With many events it
 * stays awake: it holds a lock that says so, for as long as its connection lives, and publishers
 * need not NOTIFY.
 *
 * @param pool of one connection, which nobody else uses
 * @param stopping when it is aborted, it takes nothing more
 */
export function makeFanOut(
  pool: Pool,
  { room, deliver, wake, lookForHeavy }: Hands,
  stopping: AbortSignal,
): FanOut {
  let looking: Promise<void> | undefined;
  let again = false;
  let secondLook: NodeJS.Timeout | undefined;
  let lastWake = 0;
  /** Events a second, as of then. */
  let rate = 0;
  let ratedAt = 0;

  const rateNow = (): number => {
    const now = performance.now();
    rate *= Math.exp((ratedAt - now) / 1000);
    ratedAt = now;
    return rate;
  };

  const wakeSometimes = () => {
    const now = performance.now();
    if (now - lastWake < WAKE_MS) return;
    lastWake = now;
    wake();
  };

  /** Fans out a batch; how many events were in it. */
  const fanOut = async (): Promise<number> => {
    const batch = await pool.ask((sql) => fanOutBatch(sql, room()));
    if (batch.webhook_ids || batch.leased_ids) deliver(batch);
    if (batch.heavy_waits) lookForHeavy();
    rate = rateNow() + Math.min(batch.event_count, MOST_PER_BATCH);
    return batch.event_count;
  };

  const lookOnce = async (): Promise<void> => {
    clearTimeout(secondLook);
    if (stopping.aborted) return;
    let found: number;
    do {
      again = false;
      found = await fanOut();
      if (rate > AWAKE_PER_S && !stopping.aborted) await stayAwake();
      // Whoever told of it may mean a delivery of the direct path.
      else if (found === 0) wakeSometimes();
    } while ((again || found >= BACKLOG) && !stopping.aborted);
    if (found > 0 && !stopping.aborted) {
      secondLook = setTimeout(() => void look().catch(() => {}), SECOND_LOOK_MS).unref();
    }
  };

  /** Fans out for as long as enough comes, unless enough others do. */
  const stayAwake = async (): Promise<void> => {
    if (!(await pool.ask(enterFanOut))) return;
    const lost = pool.lost();
    try {
      let lastEvent = performance.now();
      while (rateNow() > ASLEEP_PER_S && !stopping.aborted) {
        if (lost.aborted) throw new Error("the connection was lost");
        wakeSometimes();
        const begun = performance.now();
        const found = await fanOut();
        const now = performance.now();
        if (found > 0) lastEvent = now;
        if (found >= BACKLOG) continue;
        const idle = Math.min(Math.max((now - lastEvent) / 10, MIN_PAUSE_MS), MAX_PAUSE_MS);
        await sleep(Math.max(idle, Math.min(now - begun, MOST_REST_MS)));
      }
    } finally {
      await pool.ask(leaveFanOut);
    }
    // Whoever published between the last look and leaving saw it awake.
    again = true;
  };

  const look = (): Promise<void> => {
    again = true;
    // One a process: a second would share its session.
    looking ??= lookOnce().finally(() => {
      looking = undefined;
    });
    return looking;
  };

  return { look };
}
