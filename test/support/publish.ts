import { type AnySql, type Arguments, named } from "./named.ts";

/** The three ways to publish. */
export const PUBLISH_FUNCTIONS = [
  "webhook_publish_tx",
  "webhook_publish_best_effort_tx",
  "webhook_publish",
] as const;

export type PublishFunction = (typeof PUBLISH_FUNCTIONS)[number];

/** Publishes as applications do; what is not given: email.sent of user_1, without data. */
export async function publishBy(
  publish: PublishFunction,
  sql: AnySql,
  args: Arguments = {},
): Promise<string | null> {
  const all = { event_type: "email.sent", user_id: "user_1", data: "{}", ...args };
  const [row] = await sql<[{ id: string | null }]>`
    select ${sql(publish)} (${named(sql, all)}) as id`;
  return row.id;
}

/** How many rows publishing has left behind, by table. */
export interface Written {
  readonly events: number;
  readonly envelopes: number;
  readonly deliveries: number;
  readonly failures: number;
  readonly jobs: number;
}

export const NOTHING: Written = { events: 0, envelopes: 0, deliveries: 0, failures: 0, jobs: 0 };

/** Counts what publishing may write, and the jobs that it must not. */
export async function written(sql: AnySql): Promise<Written> {
  const [row] = await sql<[Written]>`
    select
      (select count(*) from webhookpub.events)::integer as events,
      (select count(*) from webhookpub.envelopes_by_event)::integer as envelopes,
      (select count(*) from webhookpub.deliveries)::integer as deliveries,
      (select count(*) from webhookpub.publish_failures)::integer as failures,
      (select count(*) from graphile_worker.jobs)::integer as jobs`;
  return row;
}
