import { setTimeout as sleep } from "node:timers/promises";
import { answered } from "./database/answered.ts";
import { type Batch, enterFanOut, fanOutBatch, leaveFanOut, type Sql } from "./database/calls.ts";

/** How long it stays awake after its last event: long enough that a steady trickle of
 * events needs no NOTIFY. */
const LINGER_MS = 1000;
/** It looks again after a tenth of the time that nothing has come, within these bounds. */
const MIN_PAUSE_MS = 1;
const MAX_PAUSE_MS = 10;
/** How often it has others look for what it has not come to, and for deliveries of the direct
 * path. */
const WAKE_MS = 50;

/** A connection that nobody else uses, and that is not to be replaced by another unnoticed. */
export interface Session {
  /** A pool of one connection. */
  readonly sql: Sql;
  /** Aborted when it has ended. */
  readonly lost: AbortSignal;
}

interface Hands {
  /** Takes what was fanned out. */
  deliver(batch: Batch): void;
  /** Adds the jobs that are missing. */
  wake(): void;
}

/**
 * Drains the pending events, lingers, and sleeps. While it is awake, publishers need not
 * NOTIFY: it holds a lock that says so, for as long as its connection lives.
 *
 * @throws Error when its connection is lost; whatever it throws, its session has to be closed,
 *   and with it the lock goes
 */
export async function fanOutUntilIdle(
  session: Session,
  { deliver, wake }: Hands,
  signal: AbortSignal,
): Promise<void> {
  const { sql, lost } = session;
  const ask = <T>(query: Promise<T>) => answered(query, { hurry: signal, lost });
  const fanOut = async (): Promise<boolean> => {
    const batch = await ask(fanOutBatch(sql));
    if (batch.webhook_ids) deliver(batch);
    return batch.event_count > 0;
  };
  // Somebody waits for this: the first batch is asked for together with the seat.
  const [entered] = await Promise.all([ask(enterFanOut(sql)), fanOut()]);
  if (!entered) return;
  let lastEvent = performance.now();
  let lastWake = lastEvent;
  for (;;) {
    const now = performance.now();
    if (now - lastWake >= WAKE_MS) {
      wake();
      lastWake = now;
    }
    if (signal.aborted || now - lastEvent >= LINGER_MS) break;
    if (await fanOut()) lastEvent = performance.now();
    else await sleep(Math.min(Math.max((now - lastEvent) / 10, MIN_PAUSE_MS), MAX_PAUSE_MS));
  }
  await ask(leaveFanOut(sql));
  // Whoever published between the last look and leaving saw it awake.
  await fanOut();
}
