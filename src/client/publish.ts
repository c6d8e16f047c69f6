import { asWebhookpubError } from "./errors.ts";
import { type Executor, runStatement } from "./executor.ts";

/** What is published. Those that are left out are null. */
export interface Event {
  /** A type of the catalog. */
  readonly type: string;
  /** Whose webhooks get it. */
  readonly userId: string;
  /** The payload: anything that JSON can say, in an object. */
  readonly data: object;
  readonly agentId?: string | undefined;
  readonly conversationId?: string | undefined;
  readonly labels?: readonly string[] | undefined;
  /** What the event tells of: with the type and `dedupKey` it makes the event's id. */
  readonly messageId?: string | undefined;
  readonly dedupKey?: string | undefined;
  /** Its id; by default made of `messageId` and `dedupKey`, or at random. */
  readonly eventId?: string | undefined;
  /** What it is about: ordered webhooks get events of one key one after the other. */
  readonly orderingKey?: string | undefined;
}

/** Of one JSON text, for no two drivers send arrays, JSON and nulls alike. */
const statement = (name: string) => `
select public.${name}(
  event_type => e.type, user_id => e."userId", data => e.data, agent_id => e."agentId",
  conversation_id => e."conversationId", labels => coalesce(e.labels, '{}'),
  message_id => e."messageId", dedup_key => e."dedupKey", event_id => e."eventId",
  ordering_key => e."orderingKey"
) as id
from json_to_record($1::text::json) as e (
  type text, "userId" text, data jsonb, "agentId" text, "conversationId" text, labels text[],
  "messageId" text, "dedupKey" text, "eventId" text, "orderingKey" text
)`;

/**
 * Publishes in the executor's transaction: the event commits with it, or not at all. For what
 * comes before an irreversible side effect.
 *
 * @returns the event's id, also when it was there already; null when publishing is off
 * @throws WebhookpubError WH001 to WH005; the transaction then can only be rolled back
 */
export function publishTx(executor: Executor, event: Event): Promise<string | null> {
  return call("webhook_publish_tx", executor, event);
}

/**
 * Publishes in the executor's transaction, which a failure leaves as it was: PostgreSQL keeps it
 * in webhookpub.publish_failures. For what comes after an irreversible side effect.
 *
 * @returns the event's id; null when it failed, or publishing is off
 */
export function publishBestEffortTx(executor: Executor, event: Event): Promise<string | null> {
  return call("webhook_publish_best_effort_tx", executor, event);
}

/**
 * Publishes on the direct path, which makes the deliveries at once. A failure is a WARNING of
 * PostgreSQL's, and the event is dropped.
 *
 * @returns the event's id; null when it failed, or publishing is off
 */
export function publish(executor: Executor, event: Event): Promise<string | null> {
  return call("webhook_publish", executor, event);
}

async function call(name: string, executor: Executor, event: Event): Promise<string | null> {
  const text = statement(name);
  try {
    const [row] = await runStatement(executor, text, JSON.stringify(event));
    return (row as { id: string | null }).id;
  } catch (error) {
    throw asWebhookpubError(error, text);
  }
}
