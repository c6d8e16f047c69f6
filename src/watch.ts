import type { WorkerEvents } from "graphile-worker";

/** A question takes milliseconds; on a machine that is far too busy, some seconds. */
const PATIENCE_MS = 15_000;
/** How often graphile-worker asks for jobs while it has none, unless a host sets it. */
const USUAL_POLL_MS = 2000;
/** Others get answers meanwhile, one a second: so many that it is neither the server nor this process. */
const ANSWERS = 3;

/** What a runner may wait for. */
type Question = "jobs" | "the crontab";

/**
 * Watches a runner of graphile-worker, whose own connections wait for an answer for ever: when
 * the database answers others and not them, nothing that is due would be fetched again.
 *
 * @param events of the runner
 * @param pollMs how long it waits between two questions for jobs, while it has none
 * @param onHung called once, with what it waits for
 * @returns to be called once a second, while the database answers
 */
export function watchRunner(
  events: WorkerEvents,
  pollMs: number,
  onHung: (what: Question) => void,
): (now?: number) => void {
  /** Since when, and how many answers others have got. */
  const waiting = new Map<Question, { readonly since: number; answers: number }>();
  const waits = (what: Question) => waiting.set(what, { since: performance.now(), answers: 0 });
  // While it has none, it is only told when it has an answer, not when it asks.
  events.on("localQueue:setMode", ({ newMode }) => {
    if (newMode === "POLLING") waits("jobs");
    else waiting.delete("jobs");
  });
  events.on("localQueue:getJobs:complete", () => {
    if (waiting.has("jobs")) waits("jobs");
  });
  for (const begins of ["cron:starting", "cron:schedule"] as const) {
    events.on(begins, () => waits("the crontab"));
  }
  for (const ends of ["cron:started", "cron:scheduled"] as const) {
    events.on(ends, () => waiting.delete("the crontab"));
  }
  let hung = false;
  return (now = performance.now()) => {
    for (const [what, question] of waiting) {
      question.answers += 1;
      const most =
        what === "jobs" ? PATIENCE_MS + Math.max(0, pollMs - USUAL_POLL_MS) : PATIENCE_MS;
      if (question.answers < ANSWERS || now - question.since < most || hung) continue;
      hung = true;
      onHung(what);
    }
  };
}
