import type { WorkerEvents } from "graphile-worker";

/** Answers that the database may give others in the meantime, one a second. */
const PATIENCE = 12;

/**
 * Watches a runner of graphile-worker, whose own connections wait for an answer for ever: when
 * the database answers others and not them, nothing that is due would be fetched again.
 *
 * @param events of the runner
 * @param onHung called once, with what it waits for
 * @returns to be called once a second, while the database answers
 */
export function watchRunner(events: WorkerEvents, onHung: (what: string) => void): () => void {
  /** Answers that others got since. */
  const waiting = new Map<"jobs" | "the crontab", number>();
  // It asks for jobs every two seconds while it has none.
  events.on("localQueue:setMode", ({ newMode }) => {
    if (newMode === "POLLING") waiting.set("jobs", 0);
    else waiting.delete("jobs");
  });
  events.on("localQueue:getJobs:complete", () => {
    if (waiting.has("jobs")) waiting.set("jobs", 0);
  });
  for (const begins of ["cron:starting", "cron:schedule"] as const) {
    events.on(begins, () => waiting.set("the crontab", 0));
  }
  for (const ends of ["cron:started", "cron:scheduled"] as const) {
    events.on(ends, () => waiting.delete("the crontab"));
  }
  let hung = false;
  return () => {
    for (const [what, answers] of waiting) {
      waiting.set(what, answers + 1);
      if (answers < PATIENCE || hung) continue;
      hung = true;
      onHung(what);
    }
  };
}
