// The columns that stay, as drivers return them with their defaults: timestamps as Date, jsonb
// parsed. Intervals and numeric differ from driver to driver and are not here.

/** Whether an event has been fanned out. */
export type EventStatus = "pending" | "processed" | "no_match";
/** How far a delivery is. */
export type DeliveryStatus = "pending" | "delivered" | "failed" | "cancelled";

/** A row of webhookpub.webhooks. */
export interface WebhookRow {
  id: string;
  user_id: string;
  url: string;
  description: string;
  events: string[];
  filters: Record<string, unknown>;
  headers: Record<string, string>;
  signature_scheme: "standard" | "stripe";
  enabled: boolean;
  disabled_at: Date | null;
  disabled_reason: string | null;
  max_in_flight: number;
  ordered: boolean;
  created_at: Date;
  last_delivered_at: Date | null;
  deleted_at: Date | null;
}

/** A row of webhookpub.events. */
export interface EventRow {
  id: string;
  user_id: string;
  type: string;
  agent_id: string | null;
  conversation_id: string | null;
  labels: string[];
  message_id: string | null;
  ordering_key: string | null;
  status: EventStatus;
  matched_webhook_ids: string[] | null;
  attempts: number;
  last_error: string | null;
  processed_at: Date | null;
  created_at: Date;
  expires_at: Date;
}

/** A row of webhookpub.deliveries. */
export interface DeliveryRow {
  id: string;
  webhook_id: string;
  event_id: string;
  event_type: string;
  message_id: string | null;
  replay_id: string | null;
  status: DeliveryStatus;
  attempts: number;
  max_attempts: number;
  next_attempt_at: Date | null;
  last_status_code: number | null;
  last_error: string | null;
  last_attempt_at: Date | null;
  delivered_at: Date | null;
  created_at: Date;
  expires_at: Date;
}

/** A row of webhookpub.attempts. */
export interface AttemptRow {
  delivery_id: string;
  attempt: number;
  started_at: Date;
  duration_ms: number;
  outcome: string;
  status_code: number | null;
  error: string | null;
  response_body: string | null;
}

/** A row of webhookpub.explain_event(): why a webhook of the event's user gets it, or not. */
export interface ExplanationRow {
  webhook_id: string;
  matched: boolean;
  reason: string;
}
