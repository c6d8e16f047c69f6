import { setTimeout as sleep } from "node:timers/promises";
import { answered } from "./answered.ts";
import { enterFanOut, fanOut, leaveFanOut, type Sql, wake } from "./client.ts";

/** How long it stays awake after its last event: long enough that a steady trickle of
 * events needs no NOTIFY. */
const LINGER_MS = 1000;
const POLL_MS = 10;
/** How often it looks for deliveries of the direct path, which makes no jobs. */
const WAKE_MS = 50;

/**
 * Drains the pending events, lingers, and sleeps. While it is awake, publishers need not
 * NOTIFY: it holds a lock that says so, for as long as its connection lives.
 *
 * @param sql a pool of one connection that nobody else uses
 */
export async function fanOutUntilIdle(sql: Sql, signal: AbortSignal): Promise<void> {
  if (!(await answered(enterFanOut(sql)))) return;
  try {
    let lastEvent = performance.now();
    let lastWake = lastEvent;
    while (!signal.aborted && performance.now() - lastEvent < LINGER_MS) {
      if ((await answered(fanOut(sql))) > 0) lastEvent = performance.now();
      else await sleep(POLL_MS);
      if (performance.now() - lastWake >= WAKE_MS) {
        await answered(wake(sql, "1 second"));
        lastWake = performance.now();
      }
    }
  } finally {
    await answered(leaveFanOut(sql));
  }
  // Whoever published between the last look and leaving saw it awake.
  await answered(fanOut(sql));
}
