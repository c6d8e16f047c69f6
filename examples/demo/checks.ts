// What must hold at the end of the demo: what was committed is held against what the
// receivers got and what the database says of it.
import type { Published } from "./publisher.ts";
import type { Receipt } from "./receivers.ts";
import { type Subscription, eventId, eventIdOf, subscriptions } from "./scenario.ts";

/** A row of webhookpub.deliveries. */
export interface Delivery {
  readonly id: string;
  readonly webhook: string;
  readonly event_id: string;
  readonly status: string;
  readonly attempts: number;
  /** Attempts whose worker was killed; they don't count against the schedule. */
  readonly lost: number;
}

/** Everything that is known at the end. */
export interface Facts {
  readonly published: Published;
  readonly receipts: readonly Receipt[];
  readonly deliveries: readonly Delivery[];
  /** Requests whose answer no worker recorded: in flight at the kill, or timed out. */
  readonly unanswered: number;
}

/** What is wrong, one sentence each; nothing when all is as it should be. */
export function findProblems(facts: Facts): string[] {
  const expected = expectedEvents(facts);
  const requests = Map.groupBy(facts.receipts, keyOf);
  const deliveries = new Map(
    facts.deliveries.map((row) => [`${row.webhook} ${row.event_id}`, row]),
  );
  const events = new Map(facts.published.committed.map((m) => [eventIdOf(m), m.tenant_id]));
  const rolledBack = new Set(facts.published.rolledBack.map(eventIdOf));
  const problems: string[] = [];

  for (const receipt of facts.receipts) {
    const { webhook, eventId, verified } = receipt;
    if (!verified) problems.push(`${webhook} got ${eventId} with a signature that is not valid`);
    if (expected.has(keyOf(receipt))) continue;
    const tenant = events.get(eventId);
    if (rolledBack.has(eventId)) problems.push(`${webhook} got ${eventId}, which was rolled back`);
    else if (tenant !== undefined && !webhook.startsWith(tenant))
      problems.push(`${webhook} got ${eventId}, which is ${tenant}'s`);
    else problems.push(`${webhook} got ${eventId}, which it should not`);
  }

  for (const [key, subscription] of expected) {
    const delivery = deliveries.get(key);
    const statuses = (requests.get(key) ?? []).map(({ status }) => status);
    const problem = delivery ? problemOf(subscription, delivery, statuses) : "has no delivery";
    if (problem !== null) problems.push(`${key} ${problem}`);
  }
  for (const key of deliveries.keys()) {
    if (!expected.has(key)) problems.push(`${key} has a delivery, but should not`);
  }

  const duplicates = countDuplicates(facts);
  if (duplicates > facts.unanswered) {
    problems.push(
      `${duplicates} requests were duplicates, but only ${facts.unanswered} had gone unanswered`,
    );
  }
  return problems;
}

/** Requests beyond those that each receiver's behaviour calls for, of one webhook or all. */
export function countDuplicates(facts: Facts, webhook?: string): number {
  const receipts = facts.receipts.filter(
    (receipt) => (webhook ?? receipt.webhook) === receipt.webhook,
  );
  const planned = new Map(subscriptions.map((s) => [s.name, plannedRequests(s)]));
  return [...Map.groupBy(receipts, keyOf).values()].reduce(
    (sum, [first, ...others]) =>
      sum + Math.max(0, 1 + others.length - (planned.get(first?.webhook ?? "") ?? 0)),
    0,
  );
}

/** How many requests a delivery takes when no worker dies. */
function plannedRequests({ behaviour, retrySchedule }: Subscription): number {
  if (behaviour === "succeeds") return 1;
  return behaviour === "fails once" ? 2 : retrySchedule.length + 1;
}

/** What is wrong with one delivery, in the light of what its receiver answered. */
function problemOf(
  { behaviour, retrySchedule }: Subscription,
  { status, attempts, lost }: Delivery,
  answers: readonly number[],
): string | null {
  if (behaviour === "always fails") {
    if (status !== "failed") return `is ${status} instead of failed`;
    const counted = attempts - lost;
    return counted === retrySchedule.length + 1
      ? null
      : `failed after ${counted} attempts instead of ${retrySchedule.length + 1}`;
  }
  if (status !== "delivered") return `is ${status} instead of delivered`;
  if (answers.at(-1) !== 200) return "is delivered, but its receiver did not say so";
  if (behaviour === "fails once" && answers[0] !== 500) return "succeeded without a retry";
  return null;
}

/** Each event that a webhook should get: its messages', and what it is told of failures. */
function expectedEvents({ published, deliveries }: Facts): Map<string, Subscription> {
  const failures = deliveries.filter(({ status }) => status === "failed");
  return new Map(
    subscriptions.flatMap((subscription): [string, Subscription][] => {
      const { name, tenant, events } = subscription;
      const wanted = published.committed.filter(
        (message) => message.tenant_id === tenant && subscription.wants(message),
      );
      const told = events.includes("*")
        ? failures.filter(({ webhook }) => webhook.startsWith(`${tenant}/`))
        : [];
      return [
        ...wanted.map(eventIdOf),
        ...told.map(({ id }) => eventId("webhook.delivery_failed", id)),
      ].map((id) => [`${name} ${id}`, subscription]);
    }),
  );
}

function keyOf({ webhook, eventId }: Receipt): string {
  return `${webhook} ${eventId}`;
}
