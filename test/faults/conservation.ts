// The law that holds whatever breaks: what was committed is delivered, once but for what a
// fault cost, and nothing else is. It is held against two witnesses that no worker writes:
// the application's own record of what it published, and the receivers' logs.
import { isDeepStrictEqual } from "node:util";
import { Webhook } from "standardwebhooks";
import type { Request } from "./receiver_process.ts";

/** An event that the application has committed, in the transaction that published it. */
export interface Published {
  readonly event_id: string;
  readonly user_id: string;
  readonly type: string;
  readonly data: unknown;
}

/** A webhook as the test made it. */
export interface Subscription {
  readonly id: string;
  /** The path of its receiver. */
  readonly name: string;
  readonly userId: string;
  readonly events: readonly string[];
  /** Every secret that it has had. */
  readonly secrets: readonly string[];
  /** It was disabled for a time: then what it got is the fan-out's decision alone. */
  readonly interrupted?: boolean;
  /** What has one ordering key is to arrive in order. */
  readonly ordered?: boolean;
}

/** Rows of webhookpub's tables. */
export interface Tables {
  readonly events: readonly {
    readonly id: string;
    readonly user_id: string;
    readonly type: string;
    readonly status: string;
    readonly matched_webhook_ids: readonly string[] | null;
    readonly envelope: string | null;
    readonly ordering_key: string | null;
    /** Sorts by time. */
    readonly created_at: string;
  }[];
  readonly deliveries: readonly {
    readonly id: string;
    readonly webhook_id: string;
    readonly event_id: string;
    readonly replay_id: string | null;
    readonly status: string;
    readonly attempts: number;
  }[];
  readonly attempts: readonly {
    readonly delivery_id: string;
    readonly attempt: number;
    readonly status_code: number | null;
  }[];
}

/** Everything that is known at the end of a scenario. */
export interface Facts extends Tables {
  readonly published: readonly Published[];
  readonly webhooks: readonly Subscription[];
  readonly requests: readonly Request[];
}

/** What a scenario did, in figures. */
export interface Figures {
  readonly events: number;
  readonly deliveries: number;
  readonly delivered: number;
  readonly failed: number;
  readonly cancelled: number;
  readonly pending: number;
  readonly requests: number;
  /** Requests that came though the one before them was not recorded as failed. */
  readonly duplicates: number;
}

interface Verdict {
  readonly figures: Figures;
  /** What does not hold, a sentence each. */
  readonly problems: readonly string[];
}

const STATUSES = ["delivered", "failed", "cancelled", "pending"] as const;
/** How far a signed time may be from the receiver's clock, as receivers have it. */
const TOLERANCE_MS = 5 * 60_000;

/**
 * Holds what was published against what arrived and what the database says.
 *
 * @param allowed how many duplicates the scenario's faults may have cost
 */
export function judge(facts: Facts, allowed: number): Verdict {
  const figures = countAll(facts);
  const problems = [
    ...eventProblems(facts),
    ...matchProblems(facts),
    ...requestProblems(facts),
    ...outcomeProblems(facts),
    ...orderProblems(facts),
  ];
  if (figures.duplicates > allowed) {
    problems.push(`${figures.duplicates} duplicates, where ${allowed} may be`);
  }
  return { figures, problems };
}

/** The entries of webhooks.events, decided here a second time. */
function wants({ events, userId }: Subscription, type: string, ofUser: string): boolean {
  return (
    userId === ofUser &&
    events.some((entry) => {
      if (entry === "*" || entry === type) return true;
      return entry.endsWith(".*") && type.startsWith(entry.slice(0, -1));
    })
  );
}

const pairOf = (eventId: string, webhookId: string) => `${eventId} for ${webhookId}`;
const attemptOf = (deliveryId: string, attempt: number | string) =>
  `attempt ${attempt} of ${deliveryId}`;
const isOperational = (type: string) => type.startsWith("webhook.");

/** The log of events is what was committed, and what the system itself told of failures. */
function* eventProblems({ published, events, deliveries }: Facts): Generator<string> {
  const committed = new Map(published.map((one) => [one.event_id, one]));
  const there = new Set<string>();
  const toldOf = new Set<string>();
  for (const { id, type, user_id: userId, status, envelope } of events) {
    there.add(id);
    const original = committed.get(id);
    if (status === "pending") yield `event ${id} was never fanned out`;
    if (original === undefined && !isOperational(type)) yield `event ${id} was never committed`;
    if (original && (original.type !== type || original.user_id !== userId)) {
      yield `event ${id} has become another`;
    }
    const content = contentOf(envelope);
    if (content?.id !== id || content.event !== type) {
      yield `event ${id} has an envelope that is not its own`;
    } else if (original && !isDeepStrictEqual(content.data, original.data)) {
      yield `event ${id} has other data than were published`;
    }
    if (type === "webhook.delivery_failed") {
      toldOf.add((content?.data as { delivery_id?: string } | undefined)?.delivery_id ?? "");
    }
  }
  for (const id of committed.keys()) if (!there.has(id)) yield `event ${id} is lost`;

  const types = new Map(events.map(({ id, type }) => [id, type]));
  for (const { id, event_id: eventId, status } of deliveries) {
    const failed = status === "failed" && !isOperational(types.get(eventId) ?? "");
    if (failed && !toldOf.has(id)) yield `delivery ${id} failed, and nobody was told`;
    if (!failed && toldOf.has(id)) yield `delivery ${id} is ${status}, but was said to have failed`;
  }
}

function contentOf(envelope: string | null) {
  try {
    return JSON.parse(envelope ?? "") as { id?: unknown; event?: unknown; data?: unknown };
  } catch {
    return undefined;
  }
}

/** Every event has one first delivery to each webhook that wants it, and none to others. */
function* matchProblems({ events, webhooks, deliveries }: Facts): Generator<string> {
  const firsts = Map.groupBy(
    deliveries.filter((delivery) => delivery.replay_id === null),
    (delivery) => pairOf(delivery.event_id, delivery.webhook_id),
  );
  const expected = new Set<string>();
  for (const { id, type, user_id: userId, matched_webhook_ids: matched } of events) {
    for (const webhook of webhooks) {
      const pair = pairOf(id, webhook.id);
      const decided = matched?.includes(webhook.id) ?? false;
      const should = wants(webhook, type, userId) && (decided || webhook.interrupted !== true);
      if (should) expected.add(pair);
      if (decided !== should) yield `${pair}: ${decided ? "" : "not "}matched`;
    }
  }
  for (const pair of expected) {
    const count = firsts.get(pair)?.length ?? 0;
    if (count !== 1) yield `${pair}: ${count} first deliveries`;
  }
  for (const pair of firsts.keys()) {
    if (!expected.has(pair)) yield `${pair}: a delivery that should not be`;
  }
}

/** Every request is one of a delivery, carries the event's own bytes, and is signed. */
function* requestProblems({ requests, deliveries, events, webhooks }: Facts): Generator<string> {
  const byId = new Map(deliveries.map((delivery) => [delivery.id, delivery]));
  const envelopes = new Map(events.map(({ id, envelope }) => [id, envelope]));
  const webhookById = new Map(webhooks.map((webhook) => [webhook.id, webhook]));
  const seen = new Set<string>();
  for (const request of requests) {
    const { "webhook-delivery-id": id = "", "webhook-attempt": attempt = "" } = request.headers;
    const what = attemptOf(id, attempt);
    const delivery = byId.get(id);
    const webhook = webhookById.get(delivery?.webhook_id ?? "");
    if (delivery === undefined || webhook === undefined) {
      yield `${what} was sent, but never committed`;
      continue;
    }
    if (seen.has(what)) yield `${what} was sent twice`;
    seen.add(what);
    if (Number(attempt) > delivery.attempts) yield `${what} was sent, but never leased`;
    if (request.webhook !== webhook.name) yield `${what} came to ${request.webhook}`;
    if (request.headers["webhook-id"] !== delivery.event_id) yield `${what} names another event`;
    if (request.body !== envelopes.get(delivery.event_id)) yield `${what} has other bytes`;
    if (!isSigned(request, webhook.secrets)) yield `${what} is not signed`;
  }
}

/** Whether one of the signatures is what somebody else's code makes with one of the secrets. */
function isSigned({ headers, body, at }: Request, secrets: readonly string[]): boolean {
  const signatures = headers["webhook-signature"]?.split(" ") ?? [];
  const signedAt = new Date(Number(headers["webhook-timestamp"]) * 1000);
  return (
    Math.abs(at - signedAt.getTime()) < TOLERANCE_MS &&
    secrets.some((secret) =>
      signatures.includes(new Webhook(secret).sign(headers["webhook-id"] ?? "", signedAt, body)),
    )
  );
}

/** What is recorded is what the receivers answered; what is delivered, they have accepted. */
function* outcomeProblems({ requests, deliveries, attempts }: Facts): Generator<string> {
  const answers = new Map<string, number | undefined>();
  const accepted = new Set<string>();
  for (const { headers, answered } of requests) {
    const { "webhook-delivery-id": id = "", "webhook-attempt": attempt = "" } = headers;
    answers.set(attemptOf(id, attempt), answered);
    if (answered !== undefined && isSuccess(answered)) accepted.add(id);
  }
  for (const { delivery_id: id, attempt, status_code: status } of attempts) {
    const what = attemptOf(id, attempt);
    if (status !== null && answers.get(what) !== status) {
      yield `${what} is recorded with ${status}, but was answered ${answers.get(what) ?? "nothing"}`;
    }
  }
  const recorded = new Set(
    attempts
      .filter(({ status_code: status }) => status !== null && isSuccess(status))
      .map((attempt) => attempt.delivery_id),
  );
  for (const { id, status } of deliveries) {
    if (!STATUSES.some((known) => known === status)) yield `delivery ${id} is ${status}`;
    if (status === "delivered" && !accepted.has(id)) {
      yield `delivery ${id} is delivered, but no receiver accepted it`;
    }
    if (status === "delivered" && !recorded.has(id)) {
      yield `delivery ${id} is delivered, but no attempt says so`;
    }
    if (status === "pending" && recorded.has(id)) {
      yield `delivery ${id} is pending, though an attempt was recorded as accepted`;
    }
  }
}

/** An ordered webhook's receiver accepts what has one ordering key in the order of its events. */
function* orderProblems({ requests, deliveries, events, webhooks }: Facts): Generator<string> {
  const ordered = new Set(webhooks.filter((one) => one.ordered === true).map(({ id }) => id));
  const eventOf = new Map(events.map((event) => [event.id, event]));
  const deliveryOf = new Map(deliveries.map((delivery) => [delivery.id, delivery]));
  const accepted = new Set<string>();
  const last = new Map<string, string>();
  for (const { headers, answered } of requests) {
    const id = headers["webhook-delivery-id"] ?? "";
    const delivery = deliveryOf.get(id);
    if (delivery?.status !== "delivered" || delivery.replay_id !== null) continue;
    if (answered === undefined || !isSuccess(answered) || accepted.has(id)) continue;
    accepted.add(id);
    const event = eventOf.get(delivery.event_id);
    const key = event?.ordering_key ?? undefined;
    if (!ordered.has(delivery.webhook_id) || event === undefined || key === undefined) continue;
    const line = `${key} for ${delivery.webhook_id}`;
    if (event.created_at < (last.get(line) ?? "")) yield `${event.id} came late: ${line}`;
    last.set(line, event.created_at);
  }
}

const isSuccess = (status: number) => status >= 200 && status < 300;

function countAll({ events, deliveries, attempts, requests }: Facts): Figures {
  const count = (status: string) => deliveries.filter((one) => one.status === status).length;
  const failed = new Set(
    attempts
      .filter(({ status_code: status }) => status === null || !isSuccess(status))
      .map((one) => attemptOf(one.delivery_id, one.attempt)),
  );
  const numbers = Map.groupBy(requests, ({ headers }) => headers["webhook-delivery-id"] ?? "");
  let duplicates = 0;
  for (const [id, own] of numbers) {
    const inOrder = own
      .map(({ headers }) => Number(headers["webhook-attempt"]))
      .toSorted(ascending);
    // A failure that was recorded calls for the next request; nothing else does.
    duplicates += inOrder
      .slice(0, -1)
      .filter((attempt) => !failed.has(attemptOf(id, attempt))).length;
  }
  return {
    events: events.length,
    deliveries: deliveries.length,
    delivered: count("delivered"),
    failed: count("failed"),
    cancelled: count("cancelled"),
    pending: count("pending"),
    requests: requests.length,
    duplicates,
  };
}

const ascending = (a: number, b: number) => a - b;
