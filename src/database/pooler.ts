import { WebhookpubError } from "../errors.ts";
import { connect } from "./connect.ts";

const TRIES = 5;

/**
 * Refuses a pooler that hands one server connection to several clients, between their
 * transactions: locks of a session and what it listens to would be another's.
 *
 * @throws WebhookpubError WH033
 */
export async function refuseTransactionPooler(url: string | undefined): Promise<void> {
  const [one, other] = [connect(url, { max: 1 }), connect(url, { max: 1 })];
  try {
    // Both are connected all the time. Two sessions can't be one backend; but the connection that
    // one client has just given back is what such a pooler gives the next.
    for (let i = 0; i < TRIES; i++) {
      const [first, second] = [await backend(one), await backend(other)];
      if (first === second) throw refusal();
    }
  } catch (error) {
    const { message } = error as Error;
    if (/unsupported startup parameter/i.test(message))
      throw refusal(`a pooler refuses our sessions (${message})`);
    throw error;
  } finally {
    await Promise.all([one.end({ timeout: 1 }), other.end({ timeout: 1 })]);
  }
}

async function backend(sql: ReturnType<typeof connect>): Promise<number> {
  // Unnamed: such a pooler may not know a prepared statement any more.
  const [row] = await sql.unsafe<[{ pid: number }]>("select pg_backend_pid() as pid");
  return row.pid;
}

const refusal = (what = "a pooler in transaction mode stands before the database") =>
  new WebhookpubError(
    "WH033",
    what,
    `Connect to PostgreSQL directly, or to a pool with pool_mode = session and
ignore_startup_parameters as docs/connecting.md has it. Publishers may stay where they are.`,
  );
