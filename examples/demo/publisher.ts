// The application's side of the demo: connections that insert messages. The trigger of
// schema.sql does the rest.
import { setTimeout as sleep } from "node:timers/promises";
import type postgres from "postgres";
import { type Message, makeMessage } from "./scenario.ts";

/** A message whose transaction has committed. */
export interface Committed extends Message {
  /** When the connection knew of the commit, in milliseconds since 1970. */
  readonly committedAt: number;
}

/** What was inserted, and what became of it. */
export interface Published {
  readonly committed: Committed[];
  readonly rolledBack: Message[];
}

interface Load {
  readonly messages: number;
  readonly connections: number;
  /** The most messages in one transaction. */
  readonly batch: number;
  /** Every nth transaction of a connection rolls back; 0: none. */
  readonly rollBackEvery: number;
  /** The pause of a connection after each transaction. */
  readonly pauseMs: number;
}

class RolledBack extends Error {}

let numbered = 0;

/** Inserts messages from several connections at once, and keeps book in `published`. */
export async function publish(
  sql: postgres.Sql,
  load: Load,
  published: Published,
  signal: AbortSignal,
): Promise<void> {
  const last = numbered + load.messages;
  const connection = async () => {
    for (let transaction = 1; numbered < last; transaction += 1) {
      signal.throwIfAborted();
      const size = Math.min(1 + (transaction % load.batch), last - numbered);
      const messages = Array.from({ length: size }, () => makeMessage((numbered += 1)));
      const rollsBack = load.rollBackEvery > 0 && transaction % load.rollBackEvery === 0;
      try {
        await sql.begin(async (sql) => {
          await sql`insert into messages ${sql(messages)}`;
          if (rollsBack) throw new RolledBack();
        });
        const committedAt = Date.now();
        published.committed.push(...messages.map((message) => ({ ...message, committedAt })));
      } catch (error) {
        if (!(error instanceof RolledBack)) throw error;
        published.rolledBack.push(...messages);
      }
      if (load.pauseMs > 0) await sleep(load.pauseMs);
    }
  };
  await Promise.all(Array.from({ length: load.connections }, connection));
}
