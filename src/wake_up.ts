import { answered } from "./database/answered.ts";
import { connect, listen, wake } from "./database/calls.ts";
import type { Vitals } from "./vitals.ts";

const TICK_MS = 1000;
/** A tick looks at what became due last. It is more than the time since the one before, for
 * what was committed late. */
const WINDOW_S = 30;
const LIMIT_MS = 10_000;

/** Wakes the tasks of a process. */
export interface WakeUp {
  stop(): Promise<void>;
}

/**
 * Makes sure that whatever is due has a job, once a second, on a connection that else only
 * hears of new events. A tick that finds the connection lost opens it anew and listens again;
 * until then the others carry on.
 *
 * @param onEvents called when a NOTIFY says that there are events and no fan-out is awake
 */
export function makeWakeUp(url: string | undefined, vitals: Vitals, onEvents: () => void): WakeUp {
  const stopping = new AbortController();
  let listening = false;
  let ticking: Promise<void> | undefined;
  let lastTick = -Infinity;

  const open = () =>
    connect(url, {
      max: 1,
      onnotify: onEvents,
      onclose: () => {
        listening = false;
      },
    });
  let sql = open();

  const tick = async () => {
    const begun = performance.now();
    // At a start: ever.
    const sinceS = Math.ceil((begun - lastTick) / 1000);
    const window = Number.isFinite(sinceS) ? `${sinceS + WINDOW_S} seconds` : null;
    try {
      if (!listening) {
        listening = true;
        await answered(listen(sql), { limitMs: LIMIT_MS, hurry: stopping.signal });
      }
      await answered(wake(sql, window), { limitMs: LIMIT_MS, hurry: stopping.signal });
      lastTick = begun;
      vitals.found();
    } catch (error) {
      if (!stopping.signal.aborted) vitals.missed(error);
      void sql.end({ timeout: 0 }).catch(() => {});
      sql = open();
      listening = false;
    }
  };

  const tickOnce = (): void => {
    ticking ??= tick().finally(() => {
      ticking = undefined;
    });
  };

  const timer = setInterval(tickOnce, TICK_MS);
  tickOnce();

  return {
    async stop() {
      clearInterval(timer);
      stopping.abort();
      await ticking;
      await sql.end({ timeout: 1 });
    },
  };
}
