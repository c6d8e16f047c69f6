import { type AnySql, type Arguments, named } from "./named.ts";

/** What create_webhook returns. */
export interface NewWebhook {
  readonly id: string;
  readonly secret: string;
}

/**
 * Creates a webhook with arguments as create_webhook names them; what is not given: of
 * user_1, for every event about email.
 */
export async function createWebhookWith(sql: AnySql, args: Arguments = {}): Promise<NewWebhook> {
  const all = {
    p_user_id: "user_1",
    p_url: "https://receiver.example/",
    p_events: "{email.*}",
    ...args,
  };
  const [webhook] = await sql<[NewWebhook]>`
    select webhook_id as id, signing_secret as secret
    from webhookpub.create_webhook(${named(sql, all)})`;
  return webhook;
}
