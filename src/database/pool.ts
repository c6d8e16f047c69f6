import postgres from "postgres";
import { codeOf } from "../errors.ts";
import { type Connections, open, type Sql } from "./connect.ts";

/** Connections that replace themselves. */
export interface Pool {
  /**
   * Asks the database; waits for its answer, but not for ever.
   *
   * @throws what the database says, or that the connection was lost
   */
  ask<T>(query: (sql: Sql) => Promise<T>): Promise<T>;
  /** Aborted when the connection that is in use now is lost, and with it what it holds. */
  lost(): AbortSignal;
  close(): Promise<void>;
}

interface PoolOptions {
  readonly max: number;
  /** How long a statement may take; the server ends it then. */
  readonly statementMs: number;
  /** Called for every notification that its connection listens for. */
  readonly onnotify?: () => void;
  /** Called for what the server says beside its results. */
  readonly onnotice?: (notice: postgres.Notice) => void;
  /** When it is aborted, the process has to end soon. */
  readonly hurry?: AbortSignal;
  /** It may be closed while nobody uses it. */
  readonly idleS?: number;
}

/** Longer than this after the server has ended a statement, and no answer will come. */
const LATE_MS = 3000;
/** Whoever was told to stop waits this long. */
const HURRIED_MS = 2000;
/** What others ask of a connection that is being replaced may still be answered. */
const END_S = 5;
const HURRIED_END_S = 1;

/**
 * Makes a pool: the one place where a connection that is of no use any more is replaced. A
 * server that has ended, a network that swallows what it is given, a server that may not write
 * any more, a plan that does not fit its table: the next query gets a new connection, and the
 * old ones are cut off.
 *
 * @param url connection string; undefined: the PG* variables
 */
export function makePool(url: string | undefined, options: PoolOptions): Pool {
  const { max, statementMs, onnotify, onnotice, hurry, idleS } = options;
  interface Generation extends Connections {
    readonly lost: AbortController;
  }
  const openAll = (): Generation => {
    const lost = new AbortController();
    const connections = open(url, {
      max,
      statementMs,
      ...(onnotify && { onnotify }),
      ...(onnotice && { onnotice }),
      ...(idleS === undefined ? {} : { idle_timeout: idleS }),
      // One alone may hold something.
      ...(max === 1 && idleS === undefined && { max_lifetime: null, onclose: () => lost.abort() }),
    });
    return { ...connections, lost };
  };
  let current = openAll();

  const closeAll = ({ sql, destroy }: Generation, timeout: number) =>
    sql.end({ timeout }).then(destroy, destroy);

  const replace = (generation: Generation) => {
    if (generation !== current) return;
    current = openAll();
    if (max === 1) generation.lost.abort();
    void closeAll(generation, END_S);
  };

  return {
    async ask(query) {
      if (current.lost.signal.aborted) replace(current);
      const generation = current;
      try {
        return await waitFor(query(generation.sql), {
          limitMs: statementMs + LATE_MS,
          hurry,
          lost: generation.lost.signal,
        });
      } catch (error) {
        if (isAboutConnection(error)) replace(generation);
        throw error;
      }
    },
    lost: () => current.lost.signal,
    close: () => closeAll(current, hurry?.aborted ? HURRIED_END_S : END_S),
  };
}

/**
 * Waits for an answer, but not for ever: a query whose server process was terminated in the wrong
 * instant is never answered by the client, nor one whose connection is half open.
 *
 * @throws Error when it has waited for too long, or the connection is lost
 */
async function waitFor<T>(
  query: Promise<T>,
  { limitMs, hurry, lost }: { limitMs: number; hurry: AbortSignal | undefined; lost: AbortSignal },
): Promise<T> {
  const late = Promise.withResolvers<never>();
  const lose = () => late.reject(new Error("the connection was lost"));
  if (lost.aborted) lose();
  lost.addEventListener("abort", lose);
  let timer: NodeJS.Timeout | undefined;
  const allow = (ms: number) => {
    clearTimeout(timer);
    timer = setTimeout(() => late.reject(new Error(`no answer within ${ms} ms`)), ms);
  };
  const cutShort = () => allow(HURRIED_MS);
  if (hurry?.aborted) cutShort();
  else allow(limitMs);
  hurry?.addEventListener("abort", cutShort);
  try {
    return await Promise.race([query, late.promise]);
  } finally {
    clearTimeout(timer);
    hurry?.removeEventListener("abort", cutShort);
    lost.removeEventListener("abort", lose);
  }
}

/**
 * SQLSTATEs that speak of the session or the server, not of what was asked: connection
 * exceptions, a transaction that is not what it should be (25006: the server is read-only), a
 * statement that is not there, a server that shuts down or has no room.
 */
const ABOUT_SESSION = /^(08...|25...|26...|57P0.|53300)$/;
/** A session that remembers what has changed since. */
const OUTDATED = /^cached plan must not change result type|^cache lookup failed/;

/** Whether a query failed for its connection's sake, so that the next one needs another. */
function isAboutConnection(error: unknown): boolean {
  if (!(error instanceof postgres.PostgresError) || error.severity !== "ERROR") return true;
  return ABOUT_SESSION.test(codeOf(error)) || OUTDATED.test(error.message);
}
