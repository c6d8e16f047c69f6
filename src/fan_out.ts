import { setTimeout as sleep } from "node:timers/promises";
import { type Batch, enterFanOut, fanOutBatch, leaveFanOut } from "./database/calls.ts";
import type { Pool } from "./database/pool.ts";
import { oneAtATime } from "./one_at_a_time.ts";

/** From so many events a second on it stays awake, for each NOTIFY would cost more. */
const AWAKE_PER_S = 80;
/** And below so many it goes back to sleep. */
const ASLEEP_PER_S = 40;
/** One batch counts for no more than this: many events of one transaction are one NOTIFY. */
const MOST_PER_BATCH = 100;
/** While it is awake it looks again after this time, or later the longer nothing has come. */
const MIN_PAUSE_MS = 4;
const MAX_PAUSE_MS = 10;
/** PostgreSQL is left alone for as long as a batch has taken, but no longer than this. */
const MOST_REST_MS = 50;
/**
 * While a publisher is under way that sends no NOTIFY, for another does (webhookpub.notify_is_due),
 * or an event waits for one with its ordering key, it looks again after this time, and then after
 * twice as long each time. What commits later is left to the tick.
 */
const NEXT_LOOK_MS = 5;
const LAST_LOOK_MS = 320;
/**
 * How often it has others look for what it has not come to, and for deliveries of the direct path;
 * and for how many times as long as that took it does not.
 */
const WAKE_MS = 100;
const WAKE_REST = 10;

interface Hands {
  /** How many requests could be begun at once. */
  room(): number;
  /** Takes what was fanned out. */
  deliver(batch: Batch): void;
  /** Adds the jobs that are missing; it does not fail. */
  wake(): Promise<void>;
  /** Fans out what is heavy, beside this. */
  lookForHeavy(): void;
}

/** Fans out the events of all, as one of many. */
export interface FanOut {
  /**
   * Looks for pending events, and for what else comes meanwhile.
   *
   * @param isTold somebody has told of something; if it is no event, it is a delivery of the direct
   *   path
   * @throws Error when its connection is lost
   */
  look(isTold: boolean): Promise<void>;
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
  let again = false;
  let told = false;
  /** The last batch left some. */
  let more = false;
  /** The last batch says that there may be more in a moment. */
  let moreSoon = false;
  /** It was awake before, and somebody may have seen it so. */
  let hasLeft = false;
  let nextLook: NodeJS.Timeout | undefined;
  let nextLookMs = NEXT_LOOK_MS;
  let nextWake = 0;
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
    const begun = performance.now();
    if (begun < nextWake) return;
    nextWake = Infinity;
    void wake().then(() => {
      const now = performance.now();
      nextWake = now + Math.max(WAKE_MS, WAKE_REST * (now - begun));
    });
  };

  /** Fans out a batch; how many events were in it. */
  const fanOut = async (): Promise<number> => {
    const batch = await pool.ask((sql) => fanOutBatch(sql, room()));
    if (batch.webhook_ids || batch.leased_ids) deliver(batch);
    if (batch.heavy_waits) lookForHeavy();
    more = batch.more;
    moreSoon = batch.look_again;
    if (batch.event_count > 0) nextLookMs = NEXT_LOOK_MS;
    rate = rateNow() + Math.min(batch.event_count, MOST_PER_BATCH);
    return batch.event_count;
  };

  const lookOnce = async (): Promise<void> => {
    clearTimeout(nextLook);
    more = false;
    while ((again || more) && !stopping.aborted) {
      const wasTold = told;
      if (wasTold) nextLookMs = NEXT_LOOK_MS;
      again = told = false;
      const found = await fanOut();
      if (rate > AWAKE_PER_S && !stopping.aborted) await stayAwake();
      else if (found === 0 && wasTold) wakeSometimes();
    }
    hasLeft &&= nextLookMs <= LAST_LOOK_MS;
    if ((moreSoon || hasLeft) && nextLookMs <= LAST_LOOK_MS && !stopping.aborted) {
      nextLook = setTimeout(() => void look(false).catch(() => {}), nextLookMs).unref();
      nextLookMs *= 2;
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
        if (more) continue;
        const idle = Math.min(Math.max((now - lastEvent) / 10, MIN_PAUSE_MS), MAX_PAUSE_MS);
        await sleep(Math.max(idle, Math.min(now - begun, MOST_REST_MS)));
      }
    } finally {
      await pool.ask(leaveFanOut);
    }
    // Whoever published between the last look and leaving saw it awake.
    again = true;
    hasLeft = true;
  };

  // One a process: a second would share its session.
  const goOn = oneAtATime(lookOnce);
  const look = (isTold: boolean): Promise<void> => {
    again = true;
    told ||= isTold;
    return goOn();
  };

  return { look };
}
