import type { Answer, Lease } from "../database/calls.ts";

/** How one POST ended. A network failure is an outcome, never an exception. */
export type Outcome =
  | { kind: "responded"; statusCode: number; body: string; retryAfter: string | null }
  | { kind: "timed_out"; error: string }
  | { kind: "refused"; error: string }
  | { kind: "blocked"; error: string };

/** Binds an outcome to the lease that it answers. */
export function answerTo(lease: Lease, outcome: Outcome, durationMs: number): Answer {
  const responded = outcome.kind === "responded" ? outcome : null;
  return {
    deliveryId: lease.delivery_id,
    attempt: lease.attempt,
    startedAt: lease.started_at,
    durationMs: Math.round(durationMs),
    outcome: outcome.kind,
    statusCode: responded?.statusCode ?? null,
    error: outcome.kind === "responded" ? null : outcome.error,
    responseBody: responded?.body ?? null,
    retryAfter: responded?.retryAfter ?? null,
  };
}
