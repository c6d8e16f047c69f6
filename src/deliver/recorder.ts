import { setTimeout as sleep } from "node:timers/promises";
import { type Answer, recordAttempts } from "../database/calls.ts";
import { codeOf, messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import type { Pool } from "../database/pool.ts";

/** Longer than this, and the lease has run out: the delivery goes out again anyhow. */
const GIVE_UP_MS = 10 * 60_000;
/** The same for a worker that was told to stop. */
const STOPPING_MS = 2000;
const PAUSE_MS = 50;
const MAX_PAUSE_MS = 2000;
/** Answers in one call. */
const LIMIT = 500;
/** An answer that nobody waits for waits so long for others to go with it. */
const COMPANY_MS = 50;
/** The database is left alone between two calls for no longer than this. */
const MOST_REST_MS = 15;
/** The same for the second call at once: the first may hang. */
const SECOND_MS = 100;

/** Records answers. */
export interface Recorder {
  /**
   * Resolves when the database has it. An answer that can't be recorded now is kept and
   * tried again: it is not lost, and nothing is sent twice because of it.
   *
   * @param urgent something waits for it: it does not wait for company
   */
  record(answer: Answer, urgent: boolean): Promise<void>;
  /** Somebody waits now for what has not been recorded. */
  hasten(): void;
  /** From now on everything is urgent. */
  drain(): void;
}

/** An answer on its way, and whoever waits for it. */
interface Entry {
  answer: Answer;
  readonly since: number;
  pause: number;
  readonly done: () => void;
}

/**
 * Makes a recorder.
 *
 * @param onReady hears of the webhooks for which something is due with what was recorded
 * @param hurry when it is aborted, the process has to end soon: a database that is away is not
 *   waited for
 */
export function makeRecorder(
  pool: Pool,
  log: Log,
  onReady: (webhookIds: readonly string[]) => void,
  hurry?: AbortSignal,
): Recorder {
  let waiting: Entry[] = [];
  let underWay = 0;
  let isUrgent = false;
  let draining = false;
  let timer: NodeJS.Timeout | undefined;
  let immediate: NodeJS.Immediate | undefined;
  /** When the last call has ended, and how long it took: the database is left alone as long. */
  let lastEnd = 0;
  let lastTook = 0;
  let failingSince: number | undefined;
  let hurriedAt: number | undefined;
  hurry?.addEventListener("abort", () => {
    hurriedAt = performance.now();
  });

  const isHopeless = (since: number) => {
    const now = performance.now();
    if (hurriedAt === undefined) return now - since > GIVE_UP_MS;
    return now - Math.max(failingSince ?? since, hurriedAt) > STOPPING_MS;
  };

  /** When the next call is due. */
  const dueAt = (): number => {
    const since = waiting[0]?.since ?? 0;
    if (underWay > 0) return waiting.length >= LIMIT ? 0 : since + SECOND_MS;
    if (isUrgent || draining || waiting.length >= LIMIT) return lastEnd;
    return Math.max(since + COMPANY_MS, lastEnd + Math.min(lastTook, MOST_REST_MS));
  };

  const schedule = () => {
    if (timer || immediate || underWay >= 2 || waiting.length === 0) return;
    const ms = dueAt() - performance.now();
    // At the next turn of the event loop at the earliest, so that what comes at once goes at once.
    if (ms > 0) timer = setTimeout(flush, ms);
    else immediate = setImmediate(flush);
  };

  const hasten = () => {
    clearTimeout(timer);
    timer = undefined;
    schedule();
  };

  const beUrgent = () => {
    if (isUrgent || waiting.length === 0) return;
    isUrgent = true;
    hasten();
  };

  const flush = () => {
    timer = undefined;
    immediate = undefined;
    if (waiting.length === 0 || underWay >= 2) return;
    if (dueAt() > performance.now() + 1) return schedule();
    const entries = waiting.slice(0, LIMIT);
    waiting = waiting.slice(LIMIT);
    if (waiting.length === 0) isUrgent = false;
    underWay += 1;
    const begun = performance.now();
    void tell(entries).finally(() => {
      underWay -= 1;
      lastEnd = performance.now();
      lastTook = lastEnd - begun;
      hasten();
    });
    schedule();
  };

  /** Whether there was something to leave out. */
  const strip = (entry: Entry): boolean => {
    const less = stripped(entry.answer);
    if (less) entry.answer = less;
    return less !== undefined;
  };

  /** Tells the database, until it has them or never will. */
  const tell = async (entries: readonly Entry[]): Promise<void> => {
    for (let pause = PAUSE_MS; ; pause = Math.min(pause * 2, MAX_PAUSE_MS)) {
      try {
        const answers = entries.map(({ answer }) => answer);
        const { held_ids, ready_webhook_ids } = await pool.ask((sql) =>
          recordAttempts(sql, answers),
        );
        failingSince = undefined;
        if (ready_webhook_ids) onReady(ready_webhook_ids);
        return finish(entries, held_ids);
      } catch (error) {
        const about = aboutWhat(error);
        if (about !== "the database" && entries.length > 1) {
          // One of them is the culprit, or they are too many: the others must not suffer.
          const half = Math.ceil(entries.length / 2);
          await tell(entries.slice(0, half));
          return tell(entries.slice(half));
        }
        log.error(`recording ${entries.length} attempts failed, trying again: ${messageOf(error)}`);
        if (about === "the data" && !entries.every(strip)) return finish(entries, []);
        failingSince ??= performance.now();
        const since = Math.min(...entries.map((entry) => entry.since));
        if (isHopeless(since)) return finish(entries, []);
        await sleep(pause);
      }
    }
  };

  /** Those whose deliveries somebody holds wait here, where they are in nobody's way. */
  const finish = (entries: readonly Entry[], held: readonly string[]) => {
    for (const entry of entries) {
      if (!held.includes(entry.answer.deliveryId)) {
        entry.done();
      } else if (isHopeless(entry.since)) {
        log.error(`recording delivery ${entry.answer.deliveryId}: somebody holds it for too long`);
        entry.done();
      } else {
        setTimeout(add, entry.pause, entry);
        entry.pause = Math.min(entry.pause * 2, MAX_PAUSE_MS);
      }
    }
  };

  const add = (entry: Entry) => {
    waiting.push(entry);
    schedule();
  };

  return {
    record: (answer, urgent) =>
      new Promise((done) => {
        add({ answer, since: performance.now(), pause: PAUSE_MS, done });
        if (urgent) beUrgent();
        else if (waiting.length === LIMIT) hasten();
      }),
    hasten: beUrgent,
    drain() {
      draining = true;
      hasten();
    },
  };
}

const UNSTORED = "the database could not store what it said";

/** The same without what the receiver said, which may be what can't be stored; or undefined. */
function stripped(answer: Answer): Answer | undefined {
  const { responseBody, retryAfter, error } = answer;
  if (responseBody === null && retryAfter === null && (error === null || error === UNSTORED)) {
    return undefined;
  }
  return {
    ...answer,
    responseBody: null,
    retryAfter: null,
    error: error === null ? null : UNSTORED,
  };
}

/** Of what an error speaks. */
function aboutWhat(error: unknown): "the data" | "their number" | "the database" {
  const code = codeOf(error);
  // A partition that is just being made, two that lock one another: the same call may succeed.
  if (code === "23514") return "the database";
  // The same call will fail the same way.
  if (/^2[23]...$/.test(code)) return "the data";
  // It took too long.
  return code === "57014" ? "their number" : "the database";
}
