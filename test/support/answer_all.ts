import { answerTo } from "../../src/answer.ts";
import { type Lease, leaseDeliveries, recordAttempts, type Sql } from "../../src/client.ts";

/**
 * Does what a worker does with everything that is due for these webhooks, except for the
 * HTTP: leases it, and records this status. Returns what would have been sent.
 */
export async function answerAll(
  sql: Sql,
  webhookIds: readonly string[],
  statusCode: number,
): Promise<Lease[]> {
  const leases = await leaseDeliveries(
    sql,
    webhookIds,
    webhookIds.map(() => 1000),
  );
  const outcome = { kind: "responded", statusCode, body: "", retryAfter: null } as const;
  await recordAttempts(
    sql,
    leases.map((lease) => answerTo(lease, outcome, 5)),
  );
  return leases;
}
