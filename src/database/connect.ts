import type { Socket } from "node:net";
import postgres from "postgres";
import { postgresOptions, targetOf } from "./dial.ts";
import { SESSION } from "./session.ts";

/** Connections to PostgreSQL. */
export type Sql = postgres.Sql<{ timestamp: string }>;

/** A session waits this long for somebody else's lock; whatever it wanted is tried again. */
const LOCK_MS = 5000;

interface ConnectOptions {
  /** Connections at most. */
  readonly max: number;
  /**
   * How long the server works on a statement, in milliseconds. With it go limits for waiting:
   * such a session holds up nobody, whatever becomes of this process.
   */
  readonly statementMs?: number;
  /** For a connection that listens: called for every notification. */
  readonly onnotify?: (channel: string) => void;
  /** Called for what the server says beside its results. */
  readonly onnotice?: (notice: postgres.Notice) => void;
  /** Called when a connection has ended. */
  readonly onclose?: () => void;
  /** How long a connection may live, in seconds; null: for ever, as one must that holds locks. */
  readonly max_lifetime?: null;
  /** After how many seconds without a query a connection is closed. */
  readonly idle_timeout?: number;
}

/** Connections, and the end of all of them at once. */
export interface Connections {
  readonly sql: Sql;
  /** Cuts them off, whether the other side hears of it or not. */
  destroy(): void;
}

/** Connects to PostgreSQL; nothing is sent before the first query. */
export function connect(url: string | undefined, options: ConnectOptions): Sql {
  return open(url, options).sql;
}

/** The same, for who may have to cut them off. */
export function open(
  url: string | undefined,
  { statementMs, ...options }: ConnectOptions,
): Connections {
  const sockets = new Set<Socket>();
  const limits =
    statementMs === undefined
      ? {}
      : {
          statement_timeout: String(statementMs),
          lock_timeout: String(LOCK_MS),
          idle_in_transaction_session_timeout: String(statementMs),
        };
  const onSocket = (socket: Socket) => {
    for (const one of sockets) if (one.destroyed) sockets.delete(one);
    sockets.add(socket);
  };
  const sql = postgres({
    // The client only ever says goodbye to a socket: it would wait for an answer as long as TCP
    // does, a quarter of an hour.
    ...postgresOptions(targetOf(url ?? ""), { ...SESSION, ...limits }, onSocket),
    onnotice: () => {},
    ...options,
    types: {
      timestamp: {
        to: 1184,
        from: [1082, 1114, 1184],
        serialize: (value: string) => value,
        parse: (value: string) => value,
      },
    },
  } as unknown as postgres.Options<{ timestamp: postgres.PostgresType<string> }>);
  return {
    sql,
    destroy: () => {
      for (const socket of sockets) socket.destroy();
    },
  };
}
