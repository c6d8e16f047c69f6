import { listen, wake } from "./database/calls.ts";
import { makePool } from "./database/pool.ts";
import { oneAtATime } from "./one_at_a_time.ts";
import type { Vitals } from "./vitals.ts";

const TICK_MS = 1000;
/** A tick looks at what became due last. It is more than the time since the one before, for
 * what was committed late. */
const WINDOW_S = 30;
/** How long the server works on a tick. */
const STATEMENT_MS = 10_000;
/** A connection that only listens is half open for no longer than this, unnoticed. */
const LISTEN_MS = 10_000;

/** Wakes the tasks of a process. */
export interface WakeUp {
  /** Wakes nobody any more, and closes its connections. */
  stop(): Promise<void>;
}

/** What it tells the rest of the worker. */
interface Ears {
  /** A NOTIFY says that there are events and no fan-out is awake. */
  onEvents(): void;
  /** The database has answered a tick. */
  onTick(): void;
}

/**
 * Makes sure that whatever is due has a job, once a second, and hears of new events: on a
 * connection each, so that nothing that holds up a tick keeps an event from being heard.
 */
export function makeWakeUp(
  url: string | undefined,
  vitals: Vitals,
  { onEvents, onTick }: Ears,
): WakeUp {
  const stopping = new AbortController();
  const limits = { max: 1, statementMs: STATEMENT_MS, hurry: stopping.signal };
  const ticker = makePool(url, limits);
  const listener = makePool(url, { ...limits, onnotify: onEvents });
  let lastTick = -Infinity;
  let lastListen = -Infinity;

  const tick = async () => {
    const begun = performance.now();
    // At a start: ever.
    const sinceS = Math.ceil((begun - lastTick) / 1000);
    const window = Number.isFinite(sinceS) ? `${sinceS + WINDOW_S} seconds` : null;
    try {
      await ticker.ask((sql) => wake(sql, window));
      lastTick = begun;
      vitals.found();
      onTick();
    } catch (error) {
      if (!stopping.signal.aborted) vitals.missed(error);
    }
  };

  const listenAgain = async () => {
    const begun = performance.now();
    if (!listener.lost().aborted && begun - lastListen < LISTEN_MS) return;
    try {
      await listener.ask(listen);
      lastListen = begun;
    } catch {
      // The tick says it.
      lastListen = -Infinity;
    }
  };

  const rounds = [oneAtATime(tick), oneAtATime(listenAgain)];
  const begin = () => {
    for (const round of rounds) void round();
  };
  const timer = setInterval(begin, TICK_MS);
  begin();

  return {
    async stop() {
      clearInterval(timer);
      stopping.abort();
      await Promise.all([ticker.close(), listener.close()]);
    },
  };
}
