import type { Sql } from "../../src/database/connect.ts";

/** A question to one of the views, as an operator asks it. */
export interface Question {
  readonly what: string;
  readonly query: string;
  /** The user to whom all of that belongs. */
  readonly user: string;
}

/** The usual questions to each view, about something of a history that is there. */
export async function usualQuestions(sql: Sql): Promise<Question[]> {
  const [one] = await sql<[{ event_id: string; webhook_id: string; user_id: string }]>`
    select d.event_id, d.webhook_id, w.user_id
    from webhookpub.deliveries as d
    join webhookpub.webhooks as w on w.id = d.webhook_id
    where d.status = 'failed'
    limit 1`;
  const event = `event_id = '${one.event_id}'`;
  const webhook = `webhook_id = '${one.webhook_id}'`;
  const user = `user_id = '${one.user_id}'`;
  const questions: [view: string, rest: string][] = [
    ["event_log", `where ${event}`],
    ["event_log", `where ${user} limit 50`],
    ["event_log", "limit 50"],
    ["delivery_log", `where ${event}`],
    ["delivery_log", `where ${webhook} limit 50`],
    ["delivery_log", `where ${user} limit 50`],
    ["delivery_log", "limit 50"],
    ["webhook_health", `where ${webhook}`],
    ["webhook_health", `where ${user}`],
    ["backlog", ""],
    ["metrics", ""],
  ];
  return questions.map(([view, rest]) => ({
    what: `${view} ${rest.replace(/ = '.*?'/, "")}`.trim(),
    query: `select * from webhookpub.${view} ${rest}`,
    user: one.user_id,
  }));
}
