import { type AnySql, named } from "./named.ts";

/** What a test wants of a webhook; the rest is as create_webhook has it. */
export interface WebhookOptions {
  readonly userId?: string;
  readonly url?: string;
  /** As text of an array: '{email.*}'. */
  readonly events?: string;
  readonly filters?: string;
  readonly headers?: string;
  readonly scheme?: "standard" | "stripe";
  readonly maxInFlight?: number;
  /** As text of an array: '{1 min,5 min}'. */
  readonly retrySchedule?: string;
  readonly requestTimeout?: string;
  readonly ordered?: boolean;
  readonly maxPerSecond?: number;
}

/** A webhook as create_webhook returned it. */
export interface TestWebhook {
  readonly id: string;
  readonly secret: string;
}

/** Creates a webhook; by default of user_1, for every event about email. */
export async function createWebhook(
  sql: AnySql,
  options: WebhookOptions = {},
): Promise<TestWebhook> {
  const [webhook] = await sql<[TestWebhook]>`
    select webhook_id as id, signing_secret as secret
    from webhookpub.create_webhook(${named(sql, {
      p_user_id: options.userId ?? "user_1",
      p_url: options.url ?? "https://receiver.example/",
      p_events: options.events ?? "{email.*}",
      p_filters: options.filters,
      p_headers: options.headers,
      p_signature_scheme: options.scheme,
      p_max_in_flight: options.maxInFlight,
      p_retry_schedule: options.retrySchedule,
      p_request_timeout: options.requestTimeout,
      p_ordered: options.ordered,
      p_max_per_second: options.maxPerSecond,
    })})`;
  return webhook;
}

/** Publishes events of one type, of user_1 by default; returns their ids, oldest first. */
export async function publish(
  sql: AnySql,
  {
    userId = "user_1",
    type = "email.received",
    count = 1,
    data = "{}",
    key,
  }: { userId?: string; type?: string; count?: number; data?: string; key?: string } = {},
): Promise<string[]> {
  const rows = await sql<{ id: string }[]>`
    select webhook_publish_tx(
      ${type}, ${userId}, ${data}::text::jsonb, ordering_key => ${key ?? null}
    ) as id
    from generate_series(1, ${count})`;
  return rows.map((row) => row.id);
}

/** Fans out until nothing is pending: a batch is bounded by what it may become. */
export async function fanOutAll(sql: AnySql): Promise<void> {
  while ((await sql`select from webhookpub.fan_out() where event_count > 0`).count > 0);
}
