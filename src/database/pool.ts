import postgres from "postgres";
import { answered } from "./answered.ts";
import type { Sql } from "./calls.ts";

/** Connections that replace themselves. */
export interface Pool {
  /**
   * Asks the database; waits for its answer, but not for ever.
   *
   * @throws what the database says, or that the connection was lost
   */
  ask<T>(query: (sql: Sql) => Promise<T>): Promise<T>;
  end(): Promise<void>;
}

const END_S = 5;
const HURRIED_END_S = 1;

/**
 * Makes a pool. A connection that was cut off in the wrong instant is of no use to the client
 * ever again: so when a query fails for its connection's sake, the next ones get new ones.
 *
 * @param open opens connections
 * @param hurry when it is aborted, the process has to end soon
 */
export function makePool(open: () => Sql, hurry?: AbortSignal): Pool {
  let current = open();
  return {
    async ask(query) {
      const sql = current;
      try {
        return await answered(query(sql), { hurry });
      } catch (error) {
        if (sql === current && !isFromServer(error)) {
          current = open();
          // What others ask of the old ones may still be answered.
          void sql.end({ timeout: END_S }).catch(() => {});
        }
        throw error;
      }
    },
    end: () => current.end({ timeout: hurry?.aborted ? HURRIED_END_S : END_S }),
  };
}

/** Whether a server that goes on said it: an ERROR, not the end of the connection. */
function isFromServer(error: unknown): boolean {
  return error instanceof postgres.PostgresError && error.severity === "ERROR";
}
