import { setTimeout as sleep } from "node:timers/promises";
import { type Batch, enterFanOut, fanOutBatch, leaveFanOut } from "./database/calls.ts";
import type { Pool } from "./database/pool.ts";

/** How long it stays awake after its last event: long enough that a steady trickle of
 * events needs no NOTIFY. */
const LINGER_MS = 1000;
/** It looks again after a tenth of the time that nothing has come, within these bounds. */
const MIN_PAUSE_MS = 1;
const MAX_PAUSE_MS = 10;
/** How often it has others look for what it has not come to, and for deliveries of the direct
 * path. */
const WAKE_MS = 50;

interface Hands {
  /** How many requests could be begun at once. */
  room(): number;
  /** Takes what was fanned out. */
  deliver(batch: Batch): void;
  /** Adds the jobs that are missing. */
  wake(): void;
}

/**
 * Drains the pending events, lingers, and sleeps. While it is awake, publishers need not
 * NOTIFY: it holds a lock that says so, for as long as its connection lives.
 *
 * @param pool of one connection, which nobody else uses
 * @throws Error when its connection is lost, and with it the lock
 */
export async function fanOutUntilIdle(
  pool: Pool,
  { room, deliver, wake }: Hands,
  signal: AbortSignal,
): Promise<void> {
  const fanOut = async (): Promise<boolean> => {
    const batch = await pool.ask((sql) => fanOutBatch(sql, room()));
    if (batch.webhook_ids || batch.leased_ids) deliver(batch);
    return batch.event_count > 0;
  };
  // Somebody waits for this: the first batch is asked for together with the seat.
  const [entered] = await Promise.all([pool.ask(enterFanOut), fanOut()]);
  if (!entered) return;
  try {
    await lingerAwake(fanOut, { wake, lost: pool.lost(), signal });
  } finally {
    await pool.ask(leaveFanOut);
  }
  // Whoever published between the last look and leaving saw it awake.
  await fanOut();
}

/** Fans out until nothing has come for a while. */
async function lingerAwake(
  fanOut: () => Promise<boolean>,
  { wake, lost, signal }: { wake(): void; lost: AbortSignal; signal: AbortSignal },
): Promise<void> {
  let lastEvent = performance.now();
  let lastWake = lastEvent;
  for (;;) {
    const now = performance.now();
    if (now - lastWake >= WAKE_MS) {
      wake();
      lastWake = now;
    }
    if (lost.aborted) throw new Error("the connection was lost");
    if (signal.aborted || now - lastEvent >= LINGER_MS) return;
    if (await fanOut()) lastEvent = performance.now();
    else await sleep(Math.min(Math.max((now - lastEvent) / 10, MIN_PAUSE_MS), MAX_PAUSE_MS));
  }
}
