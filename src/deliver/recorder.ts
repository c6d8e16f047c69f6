import { setTimeout as sleep } from "node:timers/promises";
import type { Answer } from "./answer.ts";
import { recordAttempts } from "../database/calls.ts";
import { coalesce } from "./coalesce.ts";
import { codeOf, messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import type { Pool } from "../database/pool.ts";

/** Longer than this, and the lease has run out: the delivery goes out again anyhow. */
const GIVE_UP_MS = 10 * 60_000;
/** The same for a worker that was told to stop. */
const STOPPING_MS = 2000;
const MAX_PAUSE_MS = 2000;

/** Records answers. */
export interface Recorder {
  /**
   * Resolves when the database has it. An answer that can't be recorded now is held and
   * tried again: it is not lost, and nothing is sent twice because of it.
   */
  record(answer: Answer): Promise<void>;
}

/**
 * Makes a recorder.
 *
 * @param hurry when it is aborted, the process has to end soon: a database that is away is not
 *   waited for
 */
export function makeRecorder(pool: Pool, log: Log, hurry?: AbortSignal): Recorder {
  let hurriedAt: number | undefined;
  hurry?.addEventListener("abort", () => {
    hurriedAt = performance.now();
  });
  let failingSince: number | undefined;
  const isHopeless = (begun: number) => {
    const now = performance.now();
    if (hurriedAt === undefined) return now - begun > GIVE_UP_MS;
    return now - Math.max(failingSince ?? begun, hurriedAt) > STOPPING_MS;
  };
  /** Tells the database; returns the deliveries that somebody holds there. */
  const tell = async (answers: readonly Answer[]): Promise<string[]> => {
    const begun = performance.now();
    for (let pause = 50; ; pause = Math.min(pause * 2, MAX_PAUSE_MS)) {
      try {
        const held = await pool.ask((sql) => recordAttempts(sql, answers));
        failingSince = undefined;
        return held;
      } catch (error) {
        if (answers.length > 1 && isAboutData(error)) {
          // One of them is the culprit: the others must not suffer.
          return (await Promise.all(answers.map((answer) => tell([answer])))).flat();
        }
        log.error(`recording ${answers.length} attempts failed, trying again: ${messageOf(error)}`);
        if (isAboutData(error)) return [];
        failingSince ??= performance.now();
        if (isHopeless(begun)) return [];
        await sleep(pause);
      }
    }
  };
  const isHeld = coalesce(
    async (answers: Answer[]) => {
      const held = new Set(await tell(answers));
      return answers.map(({ deliveryId }) => held.has(deliveryId));
    },
    { width: 2, limit: 500 },
  );
  return {
    async record(answer) {
      const begun = performance.now();
      // It waits here, where it is in nobody's way.
      for (let pause = 50; await isHeld(answer); pause = Math.min(pause * 2, MAX_PAUSE_MS)) {
        if (isHopeless(begun)) {
          log.error(`recording delivery ${answer.deliveryId}: somebody holds it for too long`);
          return;
        }
        await sleep(pause);
      }
    },
  };
}

/** SQLSTATE classes 22 and 23: the same call will fail the same way. */
function isAboutData(error: unknown): boolean {
  return /^2[23]...$/.test(codeOf(error));
}
