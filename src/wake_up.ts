import { answered } from "./answered.ts";
import { connect, listen, wake } from "./client.ts";
import { messageOf } from "./errors.ts";
import type { Log } from "./log.ts";

const TICK_MS = 1000;
const LIMIT_MS = 10_000;

/** Wakes the tasks of a process. */
export interface WakeUp {
  stop(): Promise<void>;
}

/**
 * Makes sure that whatever is due has a job: at once when a NOTIFY says so, and once a
 * second in any case, on a connection that does nothing else. A tick that finds the
 * connection lost opens it anew and listens again; until then the others carry on.
 */
export function makeWakeUp(url: string | undefined, log: Log): WakeUp {
  let listening = false;
  let ticking: Promise<void> | undefined;
  let again = false;
  let lastTick: number | undefined;

  const open = () =>
    connect(url, {
      max: 1,
      onnotify: () => wakeNow(),
      onclose: () => {
        listening = false;
      },
    });
  let sql = open();

  const tick = async () => {
    const begun = performance.now();
    // What became due since the last tick, and some more; after a start, ever.
    const window = lastTick === undefined ? null : Math.ceil((begun - lastTick) / 1000) + 2;
    try {
      if (!listening) {
        listening = true;
        await answered(listen(sql), LIMIT_MS);
      }
      await answered(wake(sql, window === null ? null : `${window} seconds`), LIMIT_MS);
      lastTick = begun;
    } catch (error) {
      log.warn(`tick: ${messageOf(error)}`);
      void sql.end({ timeout: 0 }).catch(() => {});
      sql = open();
      listening = false;
    }
  };

  const wakeNow = (): void => {
    again = true;
    ticking ??= (async () => {
      while (again) {
        again = false;
        await tick();
      }
      ticking = undefined;
    })();
  };

  const timer = setInterval(wakeNow, TICK_MS);
  wakeNow();

  return {
    async stop() {
      clearInterval(timer);
      await ticking;
      await sql.end({ timeout: 1 });
    },
  };
}
