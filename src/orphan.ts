import type { Log } from "./log.ts";

const LOOK_MS = 1000;

// Before anything is printed: who waits for a line and stops npm then, may be done before the
// call below.
const parent = process.ppid;

/**
 * Ends this process, in order, when what started it has ended: npx and the shell in front of it
 * die of a SIGTERM and do not pass it on. Only where npm started it.
 *
 * @returns stops looking
 */
export function endWithParent(log: Pick<Log, "info">): () => void {
  if (process.env["npm_command"] === undefined) return () => {};
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    log.info("npm, which started this process, has ended: stopping");
    process.kill(process.pid, "SIGTERM");
  }, LOOK_MS).unref();
  return () => clearInterval(timer);
}
