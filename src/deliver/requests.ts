// From leases to what goes on the wire.
import {
  type Lease,
  type LeasedRequest,
  leaseRequests,
  releaseDeliveries,
} from "../database/calls.ts";
import type { Sql } from "../database/connect.ts";
import { version } from "../version.ts";

/** A lease, and the request that it is for. */
export interface Post {
  readonly lease: Lease;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Deadline of the whole exchange, in milliseconds. */
  readonly timeout_ms: number;
  /** Where it may go: JSON of { allowHttp, allowed }. */
  readonly policy: string;
  /** Others wait until its answer is recorded: its webhook keeps order, or has little room. */
  readonly awaited: boolean;
}

/**
 * Asks for the requests of leases, some megabytes at a time, until each was handed over. Those
 * that can't be sent go back, with the reason.
 *
 * @param ask asks the database
 * @param send takes what came, at once
 * @param known what is known of them already
 */
export async function requestAll(
  ask: <T>(query: (sql: Sql) => Promise<T>) => Promise<T>,
  leases: readonly Lease[],
  send: (post: Post) => void,
  known: readonly LeasedRequest[] | null = null,
): Promise<void> {
  const left = new Map(leases.map((lease) => [lease.delivery_id, lease]));
  const bad: { lease: Lease; problem: string }[] = [];
  for (let requests = known; left.size > 0; requests = null) {
    requests ??= await ask((sql) => leaseRequests(sql, [...left.keys()]));
    // What has been deleted meanwhile.
    if (requests.length === 0) break;
    for (const request of requests) {
      const lease = left.get(request.delivery_id);
      if (!lease) continue;
      left.delete(request.delivery_id);
      if (request.problem === null) send(postOf(lease, request));
      else bad.push({ lease, problem: request.problem });
    }
  }
  if (bad.length === 0) return;
  await ask((sql) =>
    releaseDeliveries(
      sql,
      bad.map(({ lease }) => lease),
      bad.map(({ problem }) => problem),
    ),
  );
}

/** The headers of the contract, around the webhook's own. */
function postOf(lease: Lease, request: LeasedRequest): Post {
  const { url, body, timeout_ms, policy, awaited } = request;
  return {
    lease,
    url,
    headers: {
      ...request.headers,
      "content-type": "application/json",
      "user-agent": `webhookpub/${version}`,
      "accept-encoding": "identity",
      "webhook-event-type": request.event_type,
      "webhook-delivery-id": request.delivery_id,
      "webhook-attempt": String(lease.attempt),
      ...(request.signature_scheme === "stripe"
        ? { "x-webhook-signature": `t=${request.signed_at},${request.signature}` }
        : {
            "webhook-id": request.event_id,
            "webhook-timestamp": String(request.signed_at),
            "webhook-signature": request.signature,
          }),
    },
    body,
    timeout_ms,
    policy,
    awaited,
  };
}
