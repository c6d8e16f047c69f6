// Who listens to what, how their receivers answer, and which messages there will be. The
// rules stand here a second time, in TypeScript, so that the demo can hold what arrived
// against what should have.
import { createHash } from "node:crypto";

/** A row of the application's table `messages`. */
export interface Message {
  readonly id: string;
  readonly tenant_id: string;
  readonly direction: "received" | "sent";
  readonly agent_id: string | null;
  readonly labels: string[];
  readonly amount: number;
}

/** How a receiver answers. */
type Behaviour = "succeeds" | "fails once" | "always fails";

/** A webhook, as the demo creates it. */
export interface Subscription {
  /** Its name, and the path of its receiver. */
  readonly name: string;
  readonly tenant: string;
  readonly events: string[];
  readonly filters: { agent_ids?: string[]; labels?: string[]; data?: string };
  readonly maxInFlight: number;
  readonly retrySchedule: string[];
  readonly behaviour: Behaviour;
  /** How long its receiver takes. */
  readonly delayMs: number;
  /** The same as `events` and `filters`, for messages of its tenant. */
  wants(message: Message): boolean;
}

/** Deadline of a request. A killed worker's leases end 15 s after it: so it is short. */
export const REQUEST_TIMEOUT = "2 s";

export const subscriptions: readonly Subscription[] = [
  {
    name: "acme/inbox",
    tenant: "acme",
    events: ["email.*"],
    filters: {},
    maxInFlight: 20,
    retrySchedule: ["1 s", "1 s", "1 s"],
    behaviour: "succeeds",
    delayMs: 3,
    wants: () => true,
  },
  {
    name: "acme/urgent",
    tenant: "acme",
    events: ["email.received"],
    filters: { labels: ["urgent", "vip"], agent_ids: ["agent_1", "agent_2"] },
    maxInFlight: 10,
    retrySchedule: ["1 s", "1 s", "1 s"],
    behaviour: "fails once",
    delayMs: 5,
    wants: ({ direction, labels, agent_id }) =>
      direction === "received" &&
      (labels.includes("urgent") || labels.includes("vip")) &&
      (agent_id === "agent_1" || agent_id === "agent_2"),
  },
  {
    name: "globex/audit",
    tenant: "globex",
    events: ["*"],
    filters: {},
    maxInFlight: 50,
    retrySchedule: ["1 s", "1 s", "1 s"],
    behaviour: "succeeds",
    delayMs: 3,
    wants: () => true,
  },
  {
    name: "globex/large",
    tenant: "globex",
    events: ["email.received", "email.sent"],
    filters: { data: "$.amount >= 950" },
    maxInFlight: 5,
    retrySchedule: ["1 s", "1 s", "1 s"],
    behaviour: "succeeds",
    delayMs: 100,
    wants: ({ amount }) => amount >= 950,
  },
  {
    name: "globex/down",
    tenant: "globex",
    events: ["email.sent"],
    filters: { labels: ["invoice"] },
    maxInFlight: 20,
    retrySchedule: ["1 s", "1 s"],
    behaviour: "always fails",
    delayMs: 5,
    wants: ({ direction, labels }) => direction === "sent" && labels.includes("invoice"),
  },
];

const LABELS = [["urgent"], [], ["vip", "newsletter"], [], ["newsletter"], ["invoice"], []];

/** The nth message. Every property has a period of its own, so that they mix. */
export function makeMessage(n: number): Message {
  return {
    id: `msg_${n}`,
    tenant_id: n % 2 === 0 ? "acme" : "globex",
    direction: n % 3 === 0 ? "sent" : "received",
    agent_id: n % 11 === 0 ? null : `agent_${n % 11}`,
    labels: LABELS[n % LABELS.length] ?? [],
    amount: (n * 37) % 1000,
  };
}

/** webhookpub.event_id(): anyone can derive an event's id from what it is about. */
export function eventId(...parts: string[]): string {
  const hash = createHash("sha256").update(parts.join("|"), "utf8").digest("hex");
  return `evt_${hash.slice(0, 32)}`;
}

/** The id of the event that the trigger publishes for a message. */
export function eventIdOf(message: Message): string {
  return eventId(message.id, `email.${message.direction}`);
}
