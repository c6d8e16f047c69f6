import { setTimeout as sleep } from "node:timers/promises";
import { type Batch, fanOutHeavy } from "./database/calls.ts";
import type { Pool } from "./database/pool.ts";
import { oneAtATime } from "./one_at_a_time.ts";

/** PostgreSQL is left to others for as long as the last one took, but no longer than this. */
const MOST_REST_MS = 2000;

/** Fans out what goes to very many webhooks, or has failed before, one event after the other. */
export interface HeavyLane {
  /** Goes on until there is nothing left, beside whoever calls. */
  look(): void;
  /** Resolves when what is under way has ended. */
  ended(): Promise<void>;
}

/**
 * Makes a heavy lane: what takes long holds up nobody whose event does not.
 *
 * @param pool whose connection opens when it is needed
 * @param deliver takes what was fanned out
 * @param fail told of an error; whoever looks next tries again
 * @param stopping when it is aborted, it takes nothing more
 */
export function makeHeavyLane(
  pool: Pool,
  deliver: (batch: Batch) => void,
  fail: (error: unknown) => void,
  stopping: AbortSignal,
): HeavyLane {
  let again = false;
  let ended: Promise<void> | undefined;

  const lookOnce = async (): Promise<void> => {
    while (again && !stopping.aborted) {
      again = false;
      const begun = performance.now();
      const batch = await pool.ask(fanOutHeavy);
      if (batch.webhook_ids) deliver(batch);
      if (batch.event_count === 0) continue;
      again = true;
      const took = performance.now() - begun;
      await sleep(Math.min(took, MOST_REST_MS), undefined, { signal: stopping }).catch(() => {});
    }
  };
  const goOn = oneAtATime(() => lookOnce().catch(fail));

  return {
    look() {
      again = true;
      ended = goOn();
    },
    ended: async () => await ended,
  };
}
