import { setTimeout as sleep } from "node:timers/promises";
import type { Upkeep } from "./database/calls.ts";
import type { Log } from "./log.ts";

/** Others may have the next round then. */
const LIMIT_MS = 50_000;
/** How long it rests after a round, in times of the round: publishers need the machine. */
const REST = 3;

/**
 * Rounds of upkeep, until one has nothing left to do or the minute is over. Each is a short
 * transaction.
 */
export async function maintainUntilDone(
  maintain: () => Promise<Upkeep[]>,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const begun = performance.now();
  const total = new Map<string, number>();
  let spent: number;
  do {
    const roundBegun = performance.now();
    const done = await maintain();
    spent = performance.now() - roundBegun;
    for (const { task, affected } of done) {
      total.set(task, (total.get(task) ?? 0) + Number(affected));
    }
    if (done.length === 0) break;
    await sleep(REST * spent, undefined, { signal }).catch(() => {});
  } while (!signal.aborted && performance.now() - begun < LIMIT_MS);
  if (total.size === 0) return;
  const said = [...total].map(([task, affected]) => `${task} ${affected}`);
  log.info(`upkeep: ${said.join(", ")}`, { event: "upkeep_done", ...Object.fromEntries(total) });
}
